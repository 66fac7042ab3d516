//! The fault test's own tools.

use super::*;
use crate::fault::{CLIENT, INSTANCE, MACHINE, REDIS, WIRES};
use crate::{resp, schedule};

#[test]
fn replies_are_found_and_told_apart() {
    let published = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n";
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    for reply in [&published[..], subscribed, b"+OK\r\n", b"$-1\r\n", b"*0\r\n"] {
        assert_eq!(resp::reply_len(&[reply, b"+next"].concat()), Some(reply.len()));
        for part in 0..reply.len() {
            assert_eq!(resp::reply_len(&reply[..part]), None, "{part} bytes of {reply:?}");
        }
    }
    assert!(resp::is_published(published));
    assert!(!resp::is_published(subscribed));
}

#[test]
fn a_minute_has_every_kind_and_a_seed_repeats_it() {
    for seed in 0..50 {
        let first = schedule::plan(seed, 60_000, Backplane::Redis, &[]);
        let kinds: BTreeSet<Fault> = first.iter().map(|planned| planned.fault).collect();
        let all: BTreeSet<Fault> = [REDIS, WIRES, INSTANCE, MACHINE, CLIENT].concat().into_iter().collect();
        assert_eq!(kinds, all, "seed {seed}");
        assert!(first.iter().all(|planned| planned.to <= 60_000));
        assert_eq!(format!("{first:?}"), format!("{:?}", schedule::plan(seed, 60_000, Backplane::Redis, &[])));
    }
}
