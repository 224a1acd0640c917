//! The number of a cluster's making: 0, and another one each time that it is made anew ([`crate::refound`]).
//!
//! The upper half counts; the lower half is drawn, so that two clusters made anew from one state are told from each other. Numbers below
//! 2³² were counted only.

/// The bits of what is drawn.
const DRAWN_BITS: u32 = 32;

/// How often the cluster was made anew.
#[must_use]
pub const fn generation(epoch: u64) -> u64 {
    if epoch >> DRAWN_BITS == 0 { epoch } else { epoch >> DRAWN_BITS }
}

/// The epoch of a cluster that is made anew from one of this epoch; `drawn` is any random number.
#[must_use]
pub const fn next(epoch: u64, drawn: u32) -> u64 {
    ((generation(epoch) + 1) << DRAWN_BITS) | drawn as u64
}

/// As operators are shown it.
#[must_use]
pub fn text(epoch: u64) -> String {
    match epoch >> DRAWN_BITS {
        0 => epoch.to_string(),
        generation => format!("{generation}-{:08x}", epoch & u64::from(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_making_is_another_and_later_ones_are_greater() {
        for (epoch, times, shown) in [
            (0, 0, "0"),
            (3, 3, "3"),
            (u64::from(u32::MAX), u64::from(u32::MAX), "4294967295"),
            (1 << 32, 1, "1-00000000"),
            ((7 << 32) | 0xbeef, 7, "7-0000beef"),
        ] {
            assert_eq!((generation(epoch), text(epoch).as_str()), (times, shown));
        }
        for before in [0, 1, 3, 1 << 32, (1 << 32) | 0xffff_ffff, (7 << 32) | 5] {
            for drawn in [0, 1, u32::MAX] {
                let after = next(before, drawn);
                assert!(after > before, "{before} {drawn}");
                assert_eq!(generation(after), generation(before) + 1, "{before} {drawn}");
            }
            assert_ne!(next(before, 1), next(before, 2));
            assert_eq!(generation(next(before, 1)), generation(next(before, 2)), "neither came after the other");
        }
    }
}
