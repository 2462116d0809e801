//! The part of a blob that a client wants: a single byte range (RFC 9110,
//! section 14). containerd asks for one to go on after an interruption, and to
//! fetch the parts of a large layer at once.

use std::ops::Range;

/// What to send of a blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Everything, status 200.
    Whole,
    /// These bytes, status 206. Never empty.
    Bytes(Range<u64>),
    /// Nothing: the blob ends before the range begins, status 416.
    Unsatisfiable,
}

impl Wanted {
    /// Decides from the `Range` header. What is not a single range of bytes is
    /// ignored, as the RFC allows.
    pub fn of(header: Option<&str>, size: u64) -> Self {
        let Some((first, last)) = header
            .and_then(|header| header.strip_prefix("bytes="))
            .and_then(|range| range.trim().split_once('-'))
        else {
            return Wanted::Whole;
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // A number too large for us is beyond the end of any blob.
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (number(first), number(last)) {
            // The last so many bytes.
            (None, Some(count)) if first.is_empty() => match count.min(size) {
                0 => Wanted::Unsatisfiable,
                count => Wanted::Bytes(size - count..size),
            },
            (Some(first), None) if last.is_empty() => Self::between(first, size, size),
            (Some(first), Some(last)) if first <= last => {
                Self::between(first, last.saturating_add(1).min(size), size)
            }
            _ => Wanted::Whole,
        }
    }

    fn between(first: u64, end: u64, size: u64) -> Self {
        if first >= size {
            return Wanted::Unsatisfiable;
        }
        Wanted::Bytes(first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_understood() {
        for (header, part) in [
            ("bytes=0-", Wanted::Bytes(0..10)),
            ("bytes=0-0", Wanted::Bytes(0..1)),
            ("bytes=3-5", Wanted::Bytes(3..6)),
            ("bytes=9-", Wanted::Bytes(9..10)),
            ("bytes=5-99999999999999999999999", Wanted::Bytes(5..10)),
            ("bytes=-3", Wanted::Bytes(7..10)),
            ("bytes=-30", Wanted::Bytes(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-12", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
        ] {
            assert_eq!(Wanted::of(Some(header), 10), part, "{header}");
        }
        assert_eq!(Wanted::of(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(
            Wanted::of(Some("bytes=0-"), u64::MAX),
            Wanted::Bytes(0..u64::MAX)
        );
        assert_eq!(
            Wanted::of(Some("bytes=0-18446744073709551615"), u64::MAX),
            Wanted::Bytes(0..u64::MAX)
        );
    }

    #[test]
    fn what_is_not_a_single_range_is_ignored() {
        for header in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=0-1,3-4",
            "bytes=a-",
            "bytes=+1-2",
            "items=0-1",
            "bytes 0-1",
        ] {
            assert_eq!(Wanted::of(Some(header), 10), Wanted::Whole, "{header}");
        }
        assert_eq!(Wanted::of(None, 10), Wanted::Whole);
    }
}
