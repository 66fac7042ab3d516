//! Checks how deeply a client's JSON nests, before it is parsed.

/// The deepest nesting allowed in a client's JSON. `serde_json` itself allows 127 levels, each of which takes up to 2
/// KiB of stack in a debug build: that would overflow a connection's small stack and abort the process.
const MAX_NESTING: usize = 8;

/// Whether JSON text nests no deeper than `MAX_NESTING`. The contract's own frames are flat; the rest allows for future
/// fields.
pub fn is_shallow(json: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_outside_of_strings_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(&nested(8)) && !is_shallow(&nested(9)));
        assert!(is_shallow(&format!("[{}]", nested(7).repeat(50))) && !is_shallow(&"{\"a\":".repeat(9)));
        assert!(is_shallow(r#"{"text":"[[[[[[[[[[ \" {{{{{{{{{{ \\"}"#));
        assert!(!is_shallow(r#"{"text":"\\",[[[[[[[["#));
    }
}
