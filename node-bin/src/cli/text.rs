//! Bytes as text: for a terminal, which must not obey what a stranger stored, and for JSON, which must
//! not lose any of it.

use serde_json::Value;

/// `bytes` as text: as they are if they are UTF-8 without control characters other than newline and tab, so that a
/// document can be read as what it is, and otherwise escaped as on one line.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().all(harmless) => text.to_owned(),
        _ => printable_line(bytes),
    }
}

/// `bytes` on one line. Control characters and bytes that are no text are escaped as in `\n` and `\x1b`, and so is the
/// backslash: no two keys look the same.
pub(crate) fn printable_line(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\n' | '\r' | '\t' => line.extend(c.escape_default()),
                c if c.is_ascii_control() => line += &format!("\\x{:02x}", u32::from(c)),
                c if c.is_control() => line.extend(c.escape_unicode()),
                c => line.push(c),
            }
        }
        line.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    line
}

/// A JSON field `name` with the text, or `name_base64` when the bytes are not UTF-8.
pub(crate) fn field(name: &str, bytes: &[u8]) -> (String, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (name.to_owned(), text.into()),
        Err(_) => (format!("{name}_base64"), base64(bytes).into()),
    }
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            // n bytes are n + 1 digits; the rest is padding.
            if digit <= chunk.len() {
                text.push(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize].into());
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 4648, section 10, and bytes that use the last two digits.
    #[test]
    fn base64_vectors() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    /// Text stays text; what could move a cursor, or is no text at all, is escaped.
    #[test]
    fn i15_a_terminal_sees_no_control_characters() {
        assert_eq!(printable("grün\n\tja".as_bytes()), "grün\n\tja");
        assert_eq!(printable(b"\x1b[2J"), "\\x1b[2J");
        assert_eq!(printable(b"\xff\x00a"), "\\xff\\x00a");
        assert_eq!(printable_line(b"two\nlines"), "two\\nlines");
        assert_eq!(printable_line("grün".as_bytes()), "grün");
        assert_eq!(printable_line("grün\u{9b}2J".as_bytes()), "grün\\u{9b}2J");
    }

    /// What looks like an escape and is none is told from what is one; a document keeps its backslashes.
    #[test]
    fn no_two_keys_look_the_same() {
        let keys = [
            &b"k\xff"[..],
            b"k\\xff",
            b"k\\\\xff",
            b"\n",
            b"\\n",
            b"\x80",
            "\u{80}".as_bytes(),
        ];
        let mut lines = keys.map(printable_line).to_vec();
        assert_eq!(lines[..2], ["k\\xff", "k\\\\xff"]);
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), keys.len());
        assert_eq!(printable(br#"{"a":"\n"}"#), r#"{"a":"\n"}"#);
        assert_eq!(printable(b"\\\0"), "\\\\\\x00");
    }

    /// No byte is lost in JSON, and the name says how it is written.
    #[test]
    fn json_keeps_every_byte() {
        assert_eq!(field("key", b"a\nb"), ("key".into(), "a\nb".into()));
        assert_eq!(field("key", b"\xff"), ("key_base64".into(), "/w==".into()));
    }
}
