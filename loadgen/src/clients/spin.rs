//! Looking for replies for a while before sleeping: to wake a sleeping processor takes longer than
//! many an exchange.

use std::time::{Duration, Instant};

/// Whether to look before a sleep, and for how long.
///
/// Who has looked in vain sleeps at once the next time, then the next two, four and so on up to 64
/// times, and begins anew when it was worth it: with little to do, a thread sleeps.
#[derive(Debug)]
pub(crate) struct Spin {
    length: Duration,
    /// How many of the next waits sleep at once, and how many will after the next time in vain.
    sleeps: u32,
    sleeps_next: u32,
}

const SLEEPS_MAX: u32 = 64;

/// What a look has found, and how long there was nothing.
pub(crate) struct Looked {
    pub(crate) found: bool,
    pub(crate) spun: Duration,
}

impl Spin {
    /// Looks for `length` at a time, at most; never, if that is zero.
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, sleeps: 0, sleeps_next: 1 }
    }

    /// Looks again and again, at most for `longest`, until there is something, unless it is better
    /// to sleep.
    ///
    /// # Errors
    ///
    /// Those of `look`.
    pub(crate) fn spin<E>(
        &mut self,
        longest: Duration,
        mut look: impl FnMut() -> Result<bool, E>,
    ) -> Result<Looked, E> {
        let mut looked = Looked { found: false, spun: Duration::ZERO };
        if self.length.is_zero() {
            return Ok(looked);
        }
        if self.sleeps > 0 {
            self.sleeps -= 1;
            return Ok(looked);
        }
        // The first look sends what io_uring has queued, which is work.
        looked.found = look()?;
        let (start, length) = (Instant::now(), self.length.min(longest));
        while !looked.found && looked.spun < length {
            std::hint::spin_loop();
            looked.found = look()?;
            if !looked.found {
                looked.spun = start.elapsed();
            }
        }
        if looked.found {
            self.sleeps_next = 1;
            return Ok(looked);
        }
        self.sleeps = self.sleeps_next;
        self.sleeps_next = (self.sleeps_next * 2).min(SLEEPS_MAX);
        Ok(looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(3600);

    /// How often it sleeps at once before it looks.
    fn sleeps(spin: &mut Spin, finds: bool) -> u32 {
        for sleeps in 0.. {
            let mut looks = 0;
            let looked = spin.spin(LONGEST, || {
                looks += 1;
                Ok::<_, ()>(finds)
            });
            if looks > 0 {
                assert_eq!(looked.unwrap().found, finds);
                return sleeps;
            }
        }
        unreachable!("it looks now and then")
    }

    #[test]
    fn the_more_often_in_vain_the_longer_it_sleeps() {
        let mut spin = Spin::new(Duration::from_nanos(1));
        let in_vain = [0, 1, 2, 4, 8, 16, 32, 64, 64];
        assert_eq!(in_vain.map(|_| sleeps(&mut spin, false)), in_vain);
        assert_eq!([(); 3].map(|()| sleeps(&mut spin, true)), [64, 0, 0]);
        assert_eq!([(); 3].map(|()| sleeps(&mut spin, false)), [0, 1, 2]);
    }

    #[test]
    fn what_was_spun_is_without_what_was_found() {
        let mut spin = Spin::new(Duration::from_secs(60));
        let looked = spin.spin(LONGEST, || Ok::<_, ()>(true)).unwrap();
        assert!(looked.found && looked.spun.is_zero());
        let mut looks = 0;
        let looked = spin.spin(LONGEST, || {
            looks += 1;
            Ok::<_, ()>(looks == 4)
        });
        assert!(looked.unwrap().spun > Duration::ZERO);
    }

    #[test]
    fn it_ends_when_something_else_is_to_be_done() {
        let mut spin = Spin::new(Duration::from_secs(3600));
        let looked = spin.spin(Duration::from_millis(1), || Ok::<_, ()>(false)).unwrap();
        assert!(!looked.found && looked.spun >= Duration::from_millis(1));
        assert_eq!(Spin::new(LONGEST).spin(LONGEST, || Err(7)).err(), Some(7));
    }

    #[test]
    fn without_a_length_it_never_looks() {
        let looked = Spin::new(Duration::ZERO).spin(LONGEST, || Err(())).unwrap();
        assert!(!looked.found && looked.spun.is_zero());
    }
}
