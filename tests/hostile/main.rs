//! The hostile test: what strangers may do, beside a calm room of fifty people who must not notice.
//!
//!     cargo test --test hostile                         a selection for 60 s: the mix, in memory and on Redis
//!     HOSTILE=full cargo test --test hostile            every attack, from 1 and from 32 addresses, on all backplanes
//!     HOSTILE=full cargo test --test hostile -- ping    only the attacks with this word, HOSTILE_SECONDS=10 each;
//!                                                       `memory`, `file` or `redis`: only there
//!     HOSTILE_ADDRESSES=32                              only from this many addresses
//!     HOSTILE_PROXY=1                                   everybody comes through one proxy, as behind a load balancer
//!     HOSTILE_APART=1                                   the instances have the first processor to themselves
//!     HOSTILE_FLOOR=1                                   the floor: the attackers attack a server that ends each connection
//!                                                       at once, beside the instances with the calm room;
//!     HOSTILE_FLOOR=threads                             or one that does the least on a thread for each connection
//!
//! The attackers only use the processor time that nothing else needs, because real ones have machines of their own.
//!
//! For each attack it prints what the calm room measured before, during and after: the latency of its messages, missing
//! deliveries, clients from other addresses that joined within a second, health checks, memory.
//!
//! | file | owns |
//! | --- | --- |
//! | `attacks`, `raw` | what strangers do, and how they connect |
//! | `attackers` | the process in which they do it |
//! | `calm` | those who must not notice |
//! | `battery` | one attack from before to after, and its report |

mod attackers;
mod attacks;
mod battery;
mod calm;
mod raw;

#[path = "../common/mod.rs"]
mod common;

use attackers::pin;
use attacks::ATTACKS;
use battery::{Place, print_head, run};
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if attackers::attack_if_asked() {
        return ExitCode::SUCCESS;
    }
    let (places, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).partition(|word| Place::named(word).is_some());
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let here = |place: &Place| places.is_empty() || places.iter().any(|word| Place::named(word) == Some(*place));
    let full = std::env::var("HOSTILE").is_ok_and(|value| value == "full");
    let apart = std::env::var_os("HOSTILE_APART").is_some();
    if apart {
        let last = std::thread::available_parallelism().map_or(1, NonZero::get) - 1;
        assert!(last > 0, "HOSTILE_APART needs two processors");
        pin(std::process::id(), &format!("1-{last}"));
    }
    let seconds = std::env::var("HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut broken = 0;
    print_head();
    let (all, counts): (&[Place], &[u8]) = if full {
        (&[Place::Memory, Place::File, Place::Redis], &[1, 32])
    } else {
        (&[Place::Memory, Place::Redis], &[32])
    };
    let only = std::env::var("HOSTILE_ADDRESSES").ok().and_then(|text| text.parse().ok());
    let counts = only.as_ref().map_or(counts, std::slice::from_ref);
    for place in all.iter().filter(|place| here(place)) {
        for attack in ATTACKS.iter().filter(|attack| wanted(attack.name) && (full || attack.name.contains("mix"))) {
            for addresses in counts {
                broken += run(*place, attack, *addresses, Duration::from_secs(seconds), apart);
            }
        }
    }
    match broken {
        0 => {
            println!("\n1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        broken => {
            println!("\n{broken} promises broken\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}
