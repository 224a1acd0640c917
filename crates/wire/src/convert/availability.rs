//! `NodeSpec.Availability` ⇄ the words that people write.

use crate::proto::node_spec::Availability;

impl Availability {
    /// Every value.
    pub const ALL: [Availability; 3] = [Availability::Active, Availability::Pause, Availability::Drain];

    /// As people and the Engine API write it: `active`, `pause`, `drain`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Availability::Active => "active",
            Availability::Pause => "pause",
            Availability::Drain => "drain",
        }
    }

    /// The value that a word stands for; exact, lower case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Availability> {
        Availability::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// The value of a number on the wire. Unknown numbers count as active, as an engine takes them.
#[must_use]
pub fn from_wire(number: i32) -> Availability {
    Availability::try_from(number).unwrap_or(Availability::Active)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers() {
        for (word, number) in [("active", 0), ("pause", 1), ("drain", 2)] {
            let value = from_wire(number);
            assert_eq!(value.word(), word);
            assert_eq!(Availability::from_word(word), Some(value));
        }
        assert_eq!(from_wire(9), Availability::Active);
        for word in ["", "Active", "lazy"] {
            assert_eq!(Availability::from_word(word), None);
        }
    }
}
