//! Randomness from the kernel, for spreading things out and for names that nobody can guess.

/// A random number from 0 up to 1, for spreading things out.
pub fn jitter() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A random name of 32 hexadecimal digits that nobody can guess.
pub fn random_name() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn random() -> u64 {
    getrandom::u64().expect("the kernel has random numbers once it has booted")
}
