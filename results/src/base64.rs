//! Base64 with the standard alphabet and padding (RFC 4648, section 4).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let sextet = word >> (18 - 6 * digit) & 0x3f;
            // One byte fills two digits, two fill three; the rest is padding.
            let used = digit <= chunk.len();
            text.push(if used { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

/// Decodes `text`; `None` where it is not what [`encode`] writes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|&&digit| digit == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.chunks(4) {
        let mut word = 0;
        for &digit in chunk {
            word = word << 6 | sextet(digit)?;
        }
        let unused = 4 - chunk.len();
        word <<= 6 * unused;
        let count = 3 - unused;
        let [_, decoded @ ..] = word.to_be_bytes();
        if decoded[count..].iter().any(|&byte| byte != 0) {
            return None; // bits that no encoder sets
        }
        bytes.extend_from_slice(&decoded[..count]);
    }
    Some(bytes)
}

/// The six bits a digit stands for.
fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    /// The test vectors of RFC 4648, section 10.
    const VECTORS: [(&str, &str); 7] = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];

    #[test]
    fn the_vectors_of_the_rfc() {
        for (plain, encoded) in VECTORS {
            assert_eq!(encode(plain.as_bytes()), encoded);
            assert_eq!(decode(encoded).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn every_byte_in_every_position() {
        for length in 0..=9 {
            for byte in 0..=255u8 {
                let bytes: Vec<u8> = (0..length).map(|i| byte.wrapping_add(i * 28)).collect();
                assert_eq!(decode(&encode(&bytes)), Some(bytes));
            }
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Zg==Zg==", "Z===", "====", "Zh==", "Zm9=", "Zm 9", "Zm-_"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
