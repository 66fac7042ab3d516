//! The limit on what all rooms take together. When it is exceeded, the largest logs are trimmed to one common size, so that
//! strangers who fill many rooms use up neither the memory nor the disk nor Redis, and a small room loses nothing.

/// The size to which larger logs are to be trimmed, if the storage takes `used` bytes in all and `limit` is less: the
/// largest with which it then takes at most three quarters of the limit, supposing that what else is stored shrinks with
/// the logs. `sizes` are those of the logs. All logs together always keep `least`: if something else takes the rest, they
/// are not to pay for it.
pub fn trim_to(mut sizes: Vec<u64>, used: u64, limit: u64, least: u64) -> Option<u64> {
    let all = sizes.iter().sum::<u64>();
    if used <= limit || all <= least {
        return None;
    }
    let three_quarters = u128::from(all) * u128::from(limit) * 3 / 4 / u128::from(used);
    let mut left = (three_quarters as u64).max(least);
    sizes.sort_unstable();
    let mut logs = sizes.len() as u64;
    for size in sizes {
        // The share of each log that is at least this large.
        let share = left / logs;
        if size > share {
            return Some(share);
        }
        left -= size;
        logs -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_trimmed_to_one_size_and_the_small_keep_all() {
        let mib = 1 << 20;
        let half = |sizes, used, limit| trim_to(sizes, used, limit, limit / 2);
        assert_eq!(half(vec![mib, mib], 8 * mib, 8 * mib), None, "at the limit");
        // 11 of 16 MiB may stay: 1 and 2 are below the common size.
        assert_eq!(half(vec![8 * mib, mib, 5 * mib, 2 * mib], 16 * mib, 44 * mib / 3), Some(4 * mib - 1));
        assert_eq!(half(vec![3 * mib; 4], 24 * mib, 16 * mib), Some(2 * mib), "half of the limit stays");
        assert_eq!(half(vec![2 * mib; 4], 24 * mib, 16 * mib), None, "something else takes the space");
        assert_eq!(half(Vec::new(), 2, 1), None);
        assert_eq!(half(vec![0, 0], 2, 1), None);
        assert_eq!(half(vec![5, 5], 10, 0), Some(0));
    }
}
