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
//! block stands at the end of the file, or where it already is.

const BEGIN: &str = "# BEGIN chasi";
const END: &str = "# END chasi";

/// The text with this block in it, in place of the one that is there.
pub(super) fn with(text: &str, content: &str) -> String {
    let mut block = format!("{BEGIN}\n{content}");
    if !content.is_empty() && !content.ends_with('\n') {
        block.push('\n');
    }
    block.push_str(END);
    block.push('\n');
    match find(text) {
        Some(range) => format!("{}{block}{}", &text[..range.start], &text[range.end..]),
        // The line break that the last line lacks belongs to the block, so that it goes
        // with it.
        None if !text.is_empty() && !text.ends_with('\n') => format!("{text}\n{block}"),
        None => format!("{text}{block}"),
    }
}

/// The text without its block.
pub(super) fn without(text: &str) -> String {
    match find(text) {
        Some(range) => format!("{}{}", &text[..range.start], &text[range.end..]),
        None => text.to_owned(),
    }
}

/// Whether there is a block.
pub(super) fn is_in(text: &str) -> bool {
    find(text).is_some()
}

/// From the first line that begins a block to the end of the line that ends it.
/// Without the latter, only the line that begins: what follows may be anyone's.
fn find(text: &str) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    let mut begin = None;
    for line in text.split_inclusive('\n') {
        let next = at + line.len();
        match (line.trim_end(), &begin) {
            (BEGIN, None) => begin = Some(at..next),
            (END, Some(begin)) => return Some(begin.start..next),
            _ => {}
        }
        at = next;
    }
    begin
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_is_put_at_the_end_and_replaced_where_it_is() {
        let one = with("a\n", "x\n");
        assert_eq!(one, "a\n# BEGIN chasi\nx\n# END chasi\n");
        let moved = format!("{one}b\n");
        assert_eq!(with(&moved, "y"), "a\n# BEGIN chasi\ny\n# END chasi\nb\n");
        assert_eq!(without(&moved), "a\nb\n");
    }

    #[test]
    fn a_block_whose_end_is_lost_takes_nothing_else_with_it() {
        assert_eq!(without("a\n# BEGIN chasi\nb\n"), "a\nb\n");
        assert_eq!(without("a\n# END chasi\nb\n"), "a\n# END chasi\nb\n");
    }

    proptest! {
        #[test]
        fn what_is_not_the_block_is_never_changed(text in "([a-z# ]{0,5}\n){0,5}", content in "([a-z]{0,5}\n){0,3}", other in "([a-z]{0,5}\n){0,3}") {
            prop_assert_eq!(without(&with(&text, &content)), text.clone());
            prop_assert_eq!(with(&with(&text, &content), &other), with(&text, &other));
            prop_assert_eq!(with(&with(&text, &content), &content), with(&text, &content));
        }
    }
}
