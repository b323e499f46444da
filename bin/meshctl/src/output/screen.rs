//! What people see: tables, pairs and lines, one below the other.

use comfy_table::{ContentArrangement, presets};
use serde_json::Value;

use super::Style;
use super::text::{pairs, plain};

/// Fewer columns than this no terminal has that people read.
const COLUMNS_MIN: u16 = 20;

/// Columns of a terminal that does not say how many it has.
const COLUMNS_USUAL: u16 = 80;

/// Something to show, and the names in it.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    blocks: Vec<Block>,
    names: Option<Vec<String>>,
    is_confirmation: bool,
}

#[derive(Debug)]
enum Block {
    Table(Table),
    Line(String),
}

impl Screen {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A sentence that says that something was done to the thing of this name.
    pub(crate) fn confirmation(sentence: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            is_confirmation: true,
            ..Self::new().line(sentence).named([name])
        }
    }

    /// With a table below.
    #[must_use]
    pub(crate) fn table(mut self, table: Table) -> Self {
        self.blocks.push(Block::Table(table));
        self
    }

    /// With a line of text below.
    #[must_use]
    pub(crate) fn line(mut self, line: impl Into<String>) -> Self {
        self.blocks.push(Block::Line(line.into()));
        self
    }

    /// With a document below, as paths and texts.
    #[must_use]
    pub(crate) fn document(self, value: &Value) -> Self {
        let mut table = Table::new(&[]);
        for (path, text) in pairs(value) {
            table.row([path.into(), text.into()]);
        }
        self.table(table)
    }

    /// With the names that `-o name` prints.
    #[must_use]
    pub(crate) fn named(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.names = Some(names.into_iter().map(Into::into).collect());
        self
    }

    pub(super) fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    pub(super) fn is_confirmation(&self) -> bool {
        self.is_confirmation
    }

    /// As text, ready to be written. Tables stand apart by an empty line.
    pub(super) fn render(&self, style: Style) -> String {
        let mut text = String::new();
        let mut after_table = false;
        for block in &self.blocks {
            match block {
                Block::Line(line) => {
                    text.push_str(&plain(line));
                    text.push('\n');
                    after_table = false;
                }
                Block::Table(table) => {
                    if after_table {
                        text.push('\n');
                    }
                    text.push_str(&table.render(style));
                    after_table = true;
                }
            }
        }
        text
    }
}

/// Rows under a header, without borders.
#[derive(Debug)]
pub(crate) struct Table {
    header: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Without rows. An empty header is not shown.
    pub(crate) fn new(header: &'static [&'static str]) -> Self {
        Self {
            header,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn render(&self, style: Style) -> String {
        if self.rows.is_empty() && self.header.is_empty() {
            return String::new();
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING);
        if style.terminal {
            // Cells wrap, so that a narrow terminal shows all of them.
            table.set_content_arrangement(ContentArrangement::Dynamic);
            if table.width().is_some_and(|columns| columns < COLUMNS_MIN) {
                // A terminal that does not say how wide it is says 0.
                table.set_width(COLUMNS_USUAL);
            }
        }
        if style.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if !self.header.is_empty() {
            table.set_header(self.header.iter().map(comfy_table::Cell::new));
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.styled(style)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt() + "\n"
    }
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Neutral,
    Good,
    Attention,
    Bad,
}

impl Cell {
    /// The name of a state; its colour says whether somebody should look.
    pub(crate) fn state(name: &str) -> Self {
        let mood = match name {
            "running" | "active" | "executing" | "succeeded" | "healthy" | "up" | "kernel"
            | "idle" | "busy" | "held" => Mood::Good,
            "backoff" | "half_open" | "recovering" | "retrying" | "parked" | "blocked"
            | "warning" | "degraded" | "advisory" | "upgrading" | "undecided" => Mood::Attention,
            "open" | "quarantined" | "failed" | "dead_lettered" | "critical" | "down"
            | "BROKEN" => Mood::Bad,
            _ => Mood::Neutral,
        };
        Self {
            text: name.to_owned(),
            mood,
        }
    }

    fn styled(&self, style: Style) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(plain(&self.text));
        if !style.colour {
            return cell;
        }
        match self.mood {
            Mood::Neutral => cell,
            Mood::Good => cell.fg(comfy_table::Color::Green),
            Mood::Attention => cell.fg(comfy_table::Color::Yellow),
            Mood::Bad => cell.fg(comfy_table::Color::Red),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self {
            text,
            mood: Mood::Neutral,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// A dash when there is nothing.
impl<T: ToString> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        Self::from(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ID", "STATE", "NOTE"]);
        table.row(["a".into(), Cell::state("failed"), "".into()]);
        table.row(["bcd".into(), Cell::state("queued"), "x\u{1b}[2Jy".into()]);
        table
    }

    #[test]
    fn tables_are_plain_and_aligned() {
        assert_eq!(
            Screen::new().table(table()).render(Style::default()),
            "ID   STATE   NOTE\na    failed\nbcd  queued  x\\u{1b}[2Jy\n"
        );
    }

    #[test]
    fn colours_appear_only_where_they_may() {
        let coloured = Style {
            terminal: true,
            colour: true,
            ..Style::default()
        };
        assert!(
            Screen::new()
                .table(table())
                .render(coloured)
                .contains('\u{1b}')
        );
        let plain = Style {
            colour: false,
            ..coloured
        };
        assert!(
            !Screen::new()
                .table(table())
                .render(plain)
                .contains('\u{1b}')
        );
    }

    #[test]
    fn blocks_stand_one_below_the_other() {
        let screen = Screen::new()
            .line("head")
            .table(table())
            .table(table())
            .line("foot");
        let text = screen.render(Style::default());
        assert!(
            text.starts_with("head\nID") && text.ends_with("\nfoot\n") && text.contains("\n\nID"),
            "{text}"
        );
    }
}
