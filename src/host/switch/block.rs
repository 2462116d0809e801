//! A marked block in a file that others own too, such as `/etc/hosts`:
//!
//! ```text
//! 127.0.0.1 localhost
//! # BEGIN chasi
//! 127.0.0.1 api.demo.chasi.internal
//! # END chasi
//! ```
//!
//! Only the block is chasi's; every other byte of the file stays what it is. The
//! block stands at the end of the file, or where it already is. How it came there
//! is said by its first line, so that it can go without a trace.

/// An ordinary block.
const BEGIN: &str = "# BEGIN chasi";
/// The line above did not end before the block came.
const BEGIN_OPEN: &str = "# BEGIN chasi (the line above had no end)";
/// There was no file before the block came.
const BEGIN_OWN: &str = "# BEGIN chasi (in a file of its own)";
const BEGINS: [&str; 3] = [BEGIN, BEGIN_OPEN, BEGIN_OWN];
const END: &str = "# END chasi";

/// The text with this block in it, in place of the one that is there. `text` is
/// none where there is no file.
pub(super) fn with(text: Option<&str>, content: &str) -> String {
    let end = if content.is_empty() || content.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let block = |begin: &str| format!("{begin}\n{content}{end}{END}\n");
    let Some(text) = text else {
        return block(BEGIN_OWN);
    };
    match find(text) {
        Some(found) => format!(
            "{}{}{}",
            &text[..found.range.start],
            block(found.begin),
            &text[found.range.end..]
        ),
        None if !text.is_empty() && !text.ends_with('\n') => {
            format!("{text}\n{}", block(BEGIN_OPEN))
        }
        None => format!("{text}{}", block(BEGIN)),
    }
}

/// The text without its block; none if the file was there for the block only.
pub(in crate::host) fn without(text: &str) -> Option<String> {
    let Some(found) = find(text) else {
        return Some(text.to_owned());
    };
    let (mut above, below) = (&text[..found.range.start], &text[found.range.end..]);
    if found.begin == BEGIN_OPEN && below.is_empty() {
        above = above.strip_suffix('\n').unwrap_or(above);
    }
    let rest = format!("{above}{below}");
    (found.begin != BEGIN_OWN || !rest.is_empty()).then_some(rest)
}

/// Whether there is a block.
pub(super) fn is_in(text: &str) -> bool {
    find(text).is_some()
}

struct Found {
    begin: &'static str,
    range: std::ops::Range<usize>,
}

/// From the first line that begins a block to the end of the line that ends it.
/// Without the latter, only the line that begins: what follows may be anyone's.
fn find(text: &str) -> Option<Found> {
    let mut at = 0;
    let mut first = None;
    for line in text.split_inclusive('\n') {
        let next = at + line.len();
        let begin = BEGINS.into_iter().find(|begin| line.trim_end() == *begin);
        match (&mut first, begin) {
            (None, Some(begin)) => {
                first = Some(Found {
                    begin,
                    range: at..next,
                })
            }
            (Some(found), None) if line.trim_end() == END => {
                found.range.end = next;
                return first;
            }
            _ => {}
        }
        at = next;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_is_put_at_the_end_and_replaced_where_it_is() {
        let one = with(Some("a\n"), "x\n");
        assert_eq!(one, "a\n# BEGIN chasi\nx\n# END chasi\n");
        let moved = format!("{one}b\n");
        assert_eq!(
            with(Some(&moved), "y"),
            "a\n# BEGIN chasi\ny\n# END chasi\nb\n"
        );
        assert_eq!(without(&moved).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_line_without_end_has_none_again_unless_something_follows() {
        let one = with(Some("a"), "x");
        assert_eq!(without(&one).unwrap(), "a");
        assert_eq!(without(&format!("{one}b\n")).unwrap(), "a\nb\n");
    }

    #[test]
    fn a_file_of_its_own_goes_unless_others_wrote_into_it() {
        let one = with(None, "x");
        assert_eq!(without(&one), None);
        assert_eq!(without(&format!("{one}b\n")).unwrap(), "b\n");
        assert_eq!(without(&with(Some(""), "x")).unwrap(), "");
    }

    #[test]
    fn a_block_whose_end_is_lost_takes_nothing_else_with_it() {
        assert_eq!(without("a\n# BEGIN chasi\nb\n").unwrap(), "a\nb\n");
        assert_eq!(
            without("a\n# END chasi\nb\n").unwrap(),
            "a\n# END chasi\nb\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_not_the_block_is_never_changed(
            text in "([a-z# ]{0,5}\n){0,5}[a-z]{0,2}",
            content in "([a-z]{0,5}\n){0,3}",
            other in "([a-z]{0,5}\n){0,3}",
        ) {
            let one = with(Some(&text), &content);
            prop_assert_eq!(without(&one).unwrap(), text.clone());
            prop_assert_eq!(with(Some(&one), &other), with(Some(&text), &other));
            prop_assert_eq!(with(Some(&one), &content), one);
        }
    }
}
