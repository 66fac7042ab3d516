//! A deployment is invisible to the other clients.

use super::*;

together! {
    /// Three instances are restarted one after the other under load: nobody is seen leaving or joining, and nothing is
    /// refused, except what a busy machine does not carry out in time.
    fn a_rolling_restart_is_invisible_but_for_the_reconnect() {
        let mut arena = calm(&[Talk::one("talk", 30, 500, 2)], &[]);
        let drain = |instance: usize| fault(Fault::InstanceDrain, instance, 1000 + 4000 * instance as At, 2500);
        arena.cluster.run(&[drain(0), drain(1), drain(2)], 13_000);
        let outcome = arena.finish();
        all_held(&outcome);
        nobody_noticed(&outcome, &["close 1012"]);
    }

    /// The same for one instance, with 400 messages per second in flight when the signal arrives.
    fn a_drain_under_full_talk_loses_nothing() {
        let talk = Talk::one("talk", 24, 60, 1);
        let mut arena = calm(&[talk], &[("RATE_LIMIT", "0")]);
        arena.cluster.run(&[fault(Fault::InstanceDrain, 0, 2000, 2500)], 6000);
        let outcome = arena.finish();
        all_held(&outcome);
        nobody_noticed(&outcome, &["close 1012"]);
    }
}
