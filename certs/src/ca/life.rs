//! How long a certificate may last, in the words of whoever asks for it.

use std::fmt;
use std::time::Duration;

use super::{DAY, LIFE_MAX};

/// Shortest life of any certificate: its dates have whole seconds.
pub(super) const LIFE_MIN: Duration = Duration::from_secs(1);

const HOUR: u64 = 60 * 60;

/// As the command line takes it, in the largest unit of which it is a whole number.
struct Written(Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let day = DAY.as_secs();
        let units = [(365 * day, 'y'), (day, 'd'), (HOUR, 'h'), (60, 'm')];
        let is_whole = |(size, _): &(u64, char)| seconds > 0 && seconds.is_multiple_of(*size);
        let (size, unit) = units.into_iter().find(is_whole).unwrap_or((1, 's'));
        write!(f, "{}{unit}", seconds / size)
    }
}

/// What is wrong with a `life` that is out of bounds, and where they are.
pub(super) fn complaint(life: Duration) -> String {
    let written = Written(life);
    match life < LIFE_MIN {
        true => format!(
            "{written} is too short: choose at least {}",
            Written(LIFE_MIN)
        ),
        false => {
            let most = Written(LIFE_MAX);
            format!("{written} is too long: choose at most {most}, which is 10 years")
        }
    }
}
