//! The process in which an attack runs: this program, started again. It has its own limit on open files, and only uses
//! the processor time that nothing else needs.

use crate::attacks::{ATTACKS, Attack, Target};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The first argument of such a process. Then come the attack's name, the number of addresses, the duration in
/// milliseconds and the instances.
const ARGUMENT: &str = "--attack";

/// A running attack.
pub struct Attackers(Child);

impl Attackers {
    /// Starts it.
    pub fn start(attack: &Attack, instances: &[SocketAddr], addresses: u8, span: Duration) -> Attackers {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().expect("the path of this program"));
        command.args([ARGUMENT, attack.name, &addresses.to_string(), &span.as_millis().to_string()]);
        command.args(instances.iter().map(SocketAddr::to_string)).stdout(Stdio::piped());
        Attackers(command.spawn().expect("the attackers start"))
    }

    /// Waits until it ends, and returns how many connections it opened.
    pub fn finish(self) -> usize {
        let output = self.0.wait_with_output().expect("the attackers end");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("the number of connections")
    }
}

/// Starts a server that ends each connection at once, which is the least that any server can do; or one that starts a thread for
/// each (`threads`), upgrades it, answers the first text with [`WELCOME`] bytes, and otherwise only reads.
pub fn start_floor(kind: &str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let serve = if kind == "threads" { serve_on_thread } else { drop };
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    addr
}

/// About the size of a welcome of a room of fifty.
const WELCOME: usize = 2048;

fn serve_on_thread(stream: TcpStream) {
    let serve = || {
        let mut socket = tungstenite::accept(stream).ok()?;
        let mut has_joined = false;
        loop {
            let is_text = socket.read().ok()?.is_text();
            if is_text && !std::mem::replace(&mut has_joined, true) {
                socket.send("w".repeat(WELCOME).into()).ok()?;
            }
        }
    };
    let _ = Builder::new().stack_size(256 * 1024).spawn(move || -> Option<()> { serve() });
}

/// Restricts all threads of a process to these processors, in the format of `taskset`.
pub fn pin(pid: u32, processors: &str) {
    let mut command = Command::new("taskset");
    command.args(["-a", "-c", "-p", processors, &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    // It fails if a thread ends meanwhile.
    let restricted = (0..20).any(|_| command.status().is_ok_and(|status| status.success()));
    assert!(restricted, "taskset can't restrict {pid} to {processors}");
}

/// Attacks if this process was started for that, and returns whether it was.
pub fn attack_if_asked() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, name, addresses, millis, instances @ ..] = &arguments[..] else { return false };
    if first != ARGUMENT {
        return false;
    }
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let target = Target {
        addrs: instances.iter().map(|addr| addr.parse().expect("an address")).collect(),
        addresses: number(addresses) as u8,
        until: Instant::now() + Duration::from_millis(number(millis)),
        opened: Default::default(),
    };
    let attack = ATTACKS.iter().find(|attack| attack.name == name).expect("a known attack");
    (attack.run)(&target);
    println!("{}", target.opened.load(Relaxed));
    true
}
