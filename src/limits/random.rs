//! Random numbers from the kernel: jitter, and names that cannot be guessed.

/// A random number in [0, 1), to spread retries and deadlines.
pub fn jitter() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// An unguessable name: 32 hexadecimal digits, 128 random bits.
pub fn random_name() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn random() -> u64 {
    getrandom::u64().expect("the kernel provides random numbers after booting")
}
