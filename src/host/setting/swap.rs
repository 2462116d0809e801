//! Swap: off now and after the next boot, and on again when chasi leaves.

use super::{read, write_file};
use crate::command::Command;
use crate::error::Result;
use crate::host::Root;
use crate::host::before::Before;

const FSTAB: &str = "/etc/fstab";
/// What a line of fstab begins with that chasi took out of use.
const MARK: &str = "# off by chasi: ";

pub(super) fn is_off(root: &Root) -> Result<bool> {
    let fstab = read(root, FSTAB)?.unwrap_or_default();
    Ok(in_use(root)?.is_empty() && !fstab.lines().any(is_swap))
}

pub(super) fn turn_off(root: &Root) -> Result<()> {
    let mut before = Before::load(root)?;
    let devices = in_use(root)?;
    before.swaps.extend(devices.iter().cloned());
    before.save(root)?;
    if let Some(fstab) = read(root, FSTAB)?
        && fstab.lines().any(is_swap)
    {
        let mark = |line: &str| match is_swap(line) {
            true => format!("{MARK}{line}"),
            false => line.to_owned(),
        };
        write_file(root, FSTAB, &each_line(&fstab, mark))?;
    }
    for device in devices.iter().filter(|_| root.is_live()) {
        Command::new("swapoff").arg("--").arg(device).run()?;
    }
    Ok(())
}

pub(super) fn turn_on(root: &Root) -> Result<Vec<String>> {
    if let Some(fstab) = read(root, FSTAB)?
        && fstab.lines().any(|line| line.starts_with(MARK))
    {
        let unmark = |line: &str| line.strip_prefix(MARK).unwrap_or(line).to_owned();
        write_file(root, FSTAB, &each_line(&fstab, unmark))?;
    }
    let mut before = Before::load(root)?;
    let on = in_use(root)?;
    let mut notes = Vec::new();
    for device in std::mem::take(&mut before.swaps) {
        if root.is_live()
            && !on.contains(&device)
            && let Err(error) = Command::new("swapon").arg("--").arg(&device).run()
        {
            let why = error
                .causes()
                .next()
                .map(ToString::to_string)
                .unwrap_or_default();
            notes.push(format!(
                "swap on `{device}` could not be turned on again: {why}"
            ));
        }
    }
    before.save(root)?;
    Ok(notes)
}

/// Devices and files that are in use as swap.
fn in_use(root: &Root) -> Result<Vec<String>> {
    let text = read(root, "/proc/swaps")?.unwrap_or_default();
    // Spaces in paths are written as \040 (proc(5)).
    let path = |line: &str| Some(line.split_whitespace().next()?.replace("\\040", " "));
    Ok(text.lines().skip(1).filter_map(path).collect())
}

/// Whether a line of fstab(5) is about swap: its third word says so.
fn is_swap(line: &str) -> bool {
    !line.trim_start().starts_with('#') && line.split_whitespace().nth(2) == Some("swap")
}

/// Changes lines, and leaves the ends of the lines as they are.
fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => change(line) + "\n",
            None => change(line),
        })
        .collect()
}
