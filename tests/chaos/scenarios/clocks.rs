//! Wall clocks that jump, by a day in either direction and by a month, on one of three instances, or on the only one.

use super::*;

together! {
    fn a_clock_that_jumps_under_one_of_three_loses_nothing() {
        jumps(Backplane::Redis, &["+1d", "-1d", "+31d", "-31d"]);
    }

    fn a_clock_that_jumps_under_a_data_file_loses_nothing() {
        jumps(Backplane::File, &["+1d", "-1d", "+1h"]);
    }
}

/// The clock jumps while people chat, for at least a heartbeat, and the instance restarts under each wrong clock.
fn jumps(backplane: Backplane, offsets: &[&str]) {
    let mut arena = calm_on(backplane, &[Talk::one("talk", 15, 200, 2)], &[]);
    let last = backplane.instances() - 1;
    for offset in offsets {
        arena.cluster.folder.set_clock(offset);
        arena.cluster.run(&[], 4000);
        arena.cluster.run(&[fault(Fault::InstanceKill, last, 0, 300)], 1000);
    }
    arena.cluster.folder.set_clock("+0");
    let outcome = arena.finish();
    all_held(&outcome);
    nobody_left(&outcome);
}
