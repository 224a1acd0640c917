//! Tables as docker's command draws them: columns at least ten wide, three spaces between.

use crate::shown;

/// Least width of a column, its gap included. Source: 05-node, `docker node ls`.
const CELL_MIN: usize = 10;
/// Spaces between columns.
const GAP: usize = 3;

/// Rows under headings.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; a cell is one line, whatever it holds.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| shown::field(&cell).into_owned()).collect());
    }

    /// The table as text, a newline after each row, no spaces at the ends of lines.
    pub(crate) fn draw(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            (cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + GAP).max(CELL_MIN)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_as_docker_does() {
        let mut table = Table::new(&["ID", "HOSTNAME", "STATUS", "X"]);
        table.row(vec!["dzm52djk15bshpeec4zdo7hez *".into(), "manager1".into(), "Ready".into(), String::new()]);
        assert_eq!(
            table.draw(),
            "ID                            HOSTNAME   STATUS    X\n\
             dzm52djk15bshpeec4zdo7hez *   manager1   Ready\n"
        );
    }
}
