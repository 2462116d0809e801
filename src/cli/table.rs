//! Aligned columns for people. Programs use `--format json`.

use std::fmt;

use comfy_table::{ColumnConstraint, presets};

/// A table without lines: a header and rows, columns two spaces apart, as kubectl
/// prints them.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these column titles, in capitals.
    pub fn new<T: ToString>(titles: impl IntoIterator<Item = T>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(titles);
        Table(table)
    }

    /// Adds a row. A row that is shorter than the header ends in empty cells.
    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) -> &mut Self {
        self.0.add_row(cells);
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = self.0.clone();
        // Lines are never broken: a reference or a digest must stay in one piece
        // to be copied.
        for column in table.column_iter_mut() {
            column
                .set_padding((0, 2))
                .set_constraint(ColumnConstraint::ContentWidth);
        }
        writeln!(f, "{}", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(["NAME", "ROLES"]);
        table.row(["m1", "control-plane"]).row(["worker-1", ""]);
        assert_eq!(
            table.to_string(),
            "NAME      ROLES\nm1        control-plane\nworker-1\n"
        );
    }
}
