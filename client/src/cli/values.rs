//! Values as people write and read them: durations, ids, headers, bodies.

use engine::ids::MessageId;
use std::time::Duration;

/// Reads `500ms`, `30s`, `5m` or `2h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration; write it like 500ms, 30s, 5m or 2h");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| error())?;
    let unit_millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    number.checked_mul(unit_millis).map(Duration::from_millis).ok_or_else(error)
}

/// Reads a number of bytes, `500k`, `64M` or `2G`; the units are powers of 1,024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let error = || format!("`{text}` is not a size; write it like 4096, 500k, 64M or 2G");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| error())?;
    let unit_bytes = match unit {
        "" => 1,
        "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(error()),
    };
    number.checked_mul(unit_bytes).ok_or_else(error)
}

/// Checks that an address has a host and a port.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let is_address = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !is_address {
        return Err(format!("`{text}` is not an address; write it like 127.0.0.1:7400"));
    }
    Ok(text.to_owned())
}

/// Reads the id of a message, a UUID.
pub(super) fn parse_id(text: &str) -> Result<MessageId, String> {
    let id = uuid::Uuid::try_parse(text).map_err(|error| error.to_string())?;
    Ok(MessageId(id.into_bytes()))
}

/// Reads `key=value`.
pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not a header; write it like key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A body on one line: control characters and bytes that are not UTF-8 are escaped, so that no
/// message can command a terminal.
pub(super) fn escape(body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else { return body.escape_ascii().to_string() };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Base64 with padding (RFC 4648, section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = bits >> (18 - 6 * place) & 63;
            let is_padding = place > chunk.len();
            text.push(if is_padding { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_that_are_powers_of_1024() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("3k"), Ok(3 * 1024));
        assert_eq!(parse_size("64M"), Ok(64 * 1024 * 1024));
        assert_eq!(parse_size("2G"), Ok(2 * 1024 * 1024 * 1024));
        for wrong in ["", "k", "2g", "1.5M", "-1", "99999999999999999999", "18446744073709551615G"]
        {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7_200)));
        for text in
            ["", "5", "s", "5d", "-5s", "1.5s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        assert!(parse_address("node-1:7400").is_ok());
        assert!(parse_address("[::1]:7400").is_ok());
        for text in ["", "host", ":7400", "host:", "host:99999"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base64_pads_as_the_rfc_does() {
        // RFC 4648, section 10.
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn no_body_can_command_a_terminal() {
        assert_eq!(escape("grüße\n\u{1b}[2J".as_bytes()), "grüße\\n\\u{1b}[2J");
        assert_eq!(escape(b"\xff\x00a"), "\\xff\\x00a");
    }
}
