//! The difference of two texts as a unified diff, as `patch` and people read it.

use std::fmt::Write as _;
use std::ops::Range;

/// How many lines are shown around a change.
const CONTEXT: usize = 3;
/// More comparisons than that are not made: the whole middle is one change then.
const MOST: usize = 4_000_000;

/// How to come from `before` to `after`; empty when they are the same. `name` is
/// the file's.
pub fn patch(name: &str, before: &str, after: &str) -> String {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let changes = changes(&old, &new);
    let mut text = String::new();
    if changes.is_empty() {
        return text;
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "--- {name}\n+++ {name}\n");
    let mut index = 0;
    while index < changes.len() {
        let first = index;
        while index + 1 < changes.len()
            && changes[index + 1].0.start - changes[index].0.end <= 2 * CONTEXT
        {
            index += 1;
        }
        hunk(&mut text, &old, &new, &changes[first..=index]);
        index += 1;
    }
    text
}

/// Lines that go, and lines that come in their place.
type Change = (Range<usize>, Range<usize>);

fn hunk(text: &mut String, old: &[&str], new: &[&str], changes: &[Change]) {
    let (Some((first_old, first_new)), Some((last_old, last_new))) =
        (changes.first(), changes.last())
    else {
        return;
    };
    let lead = first_old.start.min(CONTEXT);
    let trail = (old.len() - last_old.end).min(CONTEXT);
    let (from, to) = (first_old.start - lead, last_old.end + trail);
    let (new_from, new_to) = (first_new.start - lead, last_new.end + trail);
    let place = |from: usize, to: usize| match to - from {
        0 => format!("{from},0"),
        1 => format!("{}", from + 1),
        count => format!("{},{count}", from + 1),
    };
    let _ = writeln!(
        text,
        "@@ -{} +{} @@",
        place(from, to),
        place(new_from, new_to)
    );
    let mut at = from;
    let mut show = |sign: char, lines: &[&str]| {
        for line in lines {
            text.push(sign);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    for (gone, come) in changes {
        show(' ', &old[at..gone.start]);
        show('-', &old[gone.clone()]);
        show('+', &new[come.clone()]);
        at = gone.end;
    }
    show(' ', &old[at..to]);
}

/// The changes, in order, none beside another.
fn changes(old: &[&str], new: &[&str]) -> Vec<Change> {
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let tail = old[head..]
        .iter()
        .rev()
        .zip(new[head..].iter().rev())
        .take_while(same)
        .count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    if a.is_empty() && b.is_empty() {
        return Vec::new();
    }
    if a.len().saturating_mul(b.len()) > MOST {
        return vec![(head..head + a.len(), head..head + b.len())];
    }
    // The lengths of the longest common subsequences of what comes after.
    let width = b.len() + 1;
    let mut length = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            length[i * width + j] = match a[i] == b[j] {
                true => length[(i + 1) * width + j + 1] + 1,
                false => length[(i + 1) * width + j].max(length[i * width + j + 1]),
            };
        }
    }
    let mut found: Vec<Change> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let goes = i < a.len()
            && (j == b.len() || length[(i + 1) * width + j] >= length[i * width + j + 1]);
        let (gone, come) = match goes {
            true => (i..i + 1, j..j),
            false => (i..i, j..j + 1),
        };
        (i, j) = (gone.end, come.end);
        match found.last_mut() {
            Some((last_gone, last_come))
                if last_gone.end == head + gone.start && last_come.end == head + come.start =>
            {
                last_gone.end = head + gone.end;
                last_come.end = head + come.end;
            }
            _ => found.push((
                head + gone.start..head + gone.end,
                head + come.start..head + come.end,
            )),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_what_diff_writes() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        let after = "a\nb\nc\nd\nx\nf\ng\nh\ni\nj\nk\nl\ny";
        assert_eq!(
            patch("Clusterfile", before, after),
            "--- Clusterfile\n+++ Clusterfile\n@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+x\n f\n g\n h\n@@ -10,3 +10,4 @@\n j\n k\n l\n+y\n\\ No newline at end of file\n"
        );
        assert_eq!(patch("x", before, before), "");
        assert_eq!(patch("x", "", "a\n"), "--- x\n+++ x\n@@ -0,0 +1 @@\n+a\n");
    }
}
