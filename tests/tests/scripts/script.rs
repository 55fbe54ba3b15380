//! The text of a script: blocks of commands, one a line, with what they print below a line of four
//! dashes; a blank line ends a block, and `#` begins a comment line.

/// A script, in the order of its file.
pub(crate) struct Script {
    pub(crate) blocks: Vec<Block>,
    /// What follows the last block.
    rest: Vec<String>,
}

/// Commands and what they print.
#[derive(Default)]
pub(crate) struct Block {
    /// Blank lines and comments before, as they are.
    before: Vec<String>,
    /// The lines of the commands as they are, comments among them.
    lines: Vec<String>,
    /// Line number and text of each command.
    pub(crate) commands: Vec<(usize, String)>,
    expected: Vec<String>,
    /// What it printed when it was run.
    pub(crate) printed: Vec<String>,
}

const DASHES: &str = "----";

fn is_comment(line: &str) -> bool {
    line.starts_with('#')
}

impl Script {
    /// Reads a script; the error begins with the line number.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self { blocks: Vec::new(), rest: Vec::new() };
        let mut block = Block::default();
        let mut is_output = false;
        for (at, line) in text.lines().enumerate() {
            let is_blank = line.trim().is_empty();
            let has_begun = !block.commands.is_empty();
            if is_blank && has_begun {
                script.blocks.push(std::mem::take(&mut block));
                is_output = false;
                block.before.push(line.into());
            } else if is_output {
                block.expected.push(line.trim_end().into());
            } else if line == DASHES {
                if !has_begun {
                    return Err(format!("{}: output without a command above it", at + 1));
                }
                is_output = true;
            } else if !has_begun && (is_blank || is_comment(line)) {
                block.before.push(line.into());
            } else {
                block.lines.push(line.into());
                if !is_comment(line) {
                    block.commands.push((at + 1, line.trim().into()));
                }
            }
        }
        if block.commands.is_empty() {
            script.rest = block.before;
        } else {
            script.blocks.push(block);
        }
        Ok(script)
    }

    /// The script with what was printed in place of what was expected.
    pub(crate) fn text(&self) -> String {
        let mut lines: Vec<&str> = Vec::new();
        for block in &self.blocks {
            lines.extend(block.before.iter().chain(&block.lines).map(String::as_str));
            if !block.printed.is_empty() {
                lines.push(DASHES);
                lines.extend(block.printed.iter().map(String::as_str));
            }
        }
        lines.extend(self.rest.iter().map(String::as_str));
        lines.join("\n") + "\n"
    }

    /// Each block that printed something else, with both.
    pub(crate) fn differences(&self, name: &str) -> Vec<String> {
        let differs = self.blocks.iter().filter(|block| block.printed != block.expected);
        let describe = |block: &Block| {
            let (line, _) = block.commands[0];
            let (expected, printed) = (block.expected.join("\n"), block.printed.join("\n"));
            format!(
                "{name}:{line}: expected\n{expected}\n{name}:{line}: but it printed\n{printed}\n"
            )
        };
        differs.map(describe).collect()
    }
}
