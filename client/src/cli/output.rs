//! How things are printed: tables and colours for people, one JSON object a line for programs.

use super::values::{base64, escape};
use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use engine::hlc::Hlc;
use engine::queue::Message;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Prints what a command found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    json: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read what is printed.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// One fact: an object for programs or a line for people.
    pub(super) fn line(self, value: &Value, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        if self.json {
            writeln!(out, "{value}")?
        } else {
            writeln!(out, "{text}")?
        }
        out.flush()
    }

    /// A list: an object a line for programs, or a table for people.
    pub(super) fn table(
        self,
        header: &[&str],
        rows: impl IntoIterator<Item = (Value, Vec<String>)>,
    ) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(header.to_vec());
        let mut out = anstream::stdout().lock();
        for (value, cells) in rows {
            if self.json {
                writeln!(out, "{value}")?;
            } else {
                table.add_row(cells);
            }
        }
        if !table.is_empty() {
            writeln!(out, "{}", table.trim_fmt())?;
        }
        out.flush()
    }

    /// A record with its fields in their own order: an object, or a table of one row.
    pub(super) fn record(
        self,
        record: &impl Serialize,
        header: &[&str],
        cells: Vec<String>,
    ) -> io::Result<()> {
        if !self.json {
            return self.table(header, [(Value::Null, cells)]);
        }
        let mut out = anstream::stdout().lock();
        // Straight to text: a map in between would sort the fields.
        writeln!(out, "{}", serde_json::to_string(record)?)?;
        out.flush()
    }

    /// A delivery on one line.
    pub(super) fn delivery(self, value: &Value, handle: &str, message: &Message) -> io::Result<()> {
        let (id, body) = (message.id, escape(&message.body));
        self.line(value, &format!("{DIM}{handle}\t{id}{DIM:#}\t{body}"))
    }

    /// Something besides, on standard error.
    pub(super) fn note(self, value: &Value, text: &str) {
        let mut out = anstream::stderr().lock();
        // There is nowhere left to complain about a standard error that is gone.
        let _written =
            if self.json { writeln!(out, "{value}") } else { writeln!(out, "{DIM}{text}{DIM:#}") };
    }

    /// A wait that says why.
    pub(super) fn waiting(self) -> Waiting {
        let is_drawn = !self.json && io::stderr().is_terminal();
        let bar = ProgressBar::new(WAITING_STEPS);
        if !is_drawn {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Waiting { printer: self, bar, is_drawn, told: None }
    }

    /// What went wrong, on standard error.
    pub(super) fn error(self, what: &str, remedy: Option<&str>, exit_code: u8) {
        let mut out = anstream::stderr().lock();
        // There is nowhere left to complain about a standard error that is gone.
        let _written = if self.json {
            writeln!(out, "{}", json!({"error": what, "remedy": remedy, "exit_code": exit_code}))
        } else {
            let remedy = remedy.map(|remedy| format!("\n  next: {remedy}")).unwrap_or_default();
            writeln!(out, "{ERROR}error:{ERROR:#} {what}{remedy}")
        };
    }

    /// A bar of `total` messages, or a counter without one, on standard error; invisible unless that
    /// is a terminal.
    pub(super) fn progress(self, total: Option<u64>) -> ProgressBar {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        if self.json || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = match total {
            Some(_) => "{bar:40} {human_pos}/{human_len} messages, {per_sec}, {eta} left",
            None => "{spinner} {human_pos} messages, {per_sec}",
        };
        bar.with_style(ProgressStyle::with_template(template).expect("a valid template"))
    }
}

/// Steps of a waiting bar.
const WAITING_STEPS: u64 = 1_000;
/// Without a terminal a wait is told of in lines, this far apart at least.
const WAITING_LINES_APART: Duration = Duration::from_secs(5);

/// Somebody waits, and is told why: by a bar on a terminal, by a line now and then elsewhere.
#[derive(Debug)]
pub(super) struct Waiting {
    printer: Printer,
    bar: ProgressBar,
    is_drawn: bool,
    told: Option<(Instant, String)>,
}

impl Waiting {
    /// Tells how far it is, if that is known, and why it is not done.
    pub(super) fn tell(&mut self, share: Option<f64>, why: &str) {
        if self.is_drawn {
            let template = if share.is_some() { "{bar:30} {msg}" } else { "{spinner} {msg}" };
            let style = ProgressStyle::with_template(template).expect("a valid template");
            self.bar.set_style(style);
            self.bar.set_message(why.to_owned());
            self.bar.set_position((share.unwrap_or(0.0) * WAITING_STEPS as f64) as u64);
            self.bar.tick();
            return;
        }
        let is_news = self
            .told
            .as_ref()
            .is_none_or(|(at, last)| last != why && at.elapsed() >= WAITING_LINES_APART);
        if is_news {
            self.printer.note(&json!({"waiting": why}), &format!("waiting: {why}"));
            self.told = Some((Instant::now(), why.to_owned()));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A message as JSON; a body that is not UTF-8 is in `body_base64` instead of `body`.
pub(super) fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "id": message.id.to_string(),
        "queue": message.to,
        "from": message.from,
        "sent_at_millis": message.sent_at.millis(),
        "headers": message.headers,
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => value["body"] = json!(text),
        Err(_) => value["body_base64"] = json!(base64(&message.body)),
    }
    value
}

/// A stamp's wall-clock time, UTC to the millisecond (RFC 3339).
pub(super) fn time(stamp: Hlc) -> String {
    stamp.to_rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ids::MessageId;

    #[test]
    fn times_are_those_of_the_calendar() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
        ];
        for (millis, text) in known {
            assert_eq!(time(Hlc::from_millis(millis)), text);
        }
    }

    #[test]
    fn bodies_in_json_lose_nothing() {
        let message = |body: &[u8]| Message {
            id: MessageId::default(),
            from: String::new(),
            to: "q".into(),
            sent_at: Hlc::ZERO,
            headers: Vec::new(),
            body: body.to_vec(),
        };
        assert_eq!(message_json(&message("grüße\n".as_bytes()))["body"], "grüße\n");
        let binary = message_json(&message(b"\xff\x00"));
        assert_eq!(binary["body_base64"], "/wA=");
        assert_eq!(binary.get("body"), None);
    }
}
