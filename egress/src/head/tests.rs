use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Head, HeadError> {
    Head::parse(text.as_bytes()).map(|head| head.expect("complete"))
}

fn get(target: &str, headers: &str) -> Result<Head, HeadError> {
    parse(&format!("GET {target} HTTP/1.1\r\n{headers}\r\n"))
}

#[test]
fn the_three_forms_are_read() {
    let head = get(
        "http://Allowed.test:8080/a?b=c",
        "Host: allowed.test:8080\r\n",
    )
    .unwrap();
    assert_eq!(
        (head.host.to_string().as_str(), head.port),
        ("allowed.test", 8080)
    );
    assert_eq!(head.path.as_deref(), Some("/a?b=c"));
    let head = get("http://allowed.test", "Host: allowed.test\r\n").unwrap();
    assert_eq!((head.port, head.path.as_deref()), (80, Some("/")));
    let head = get("http://allowed.test?q", "Host: allowed.test\r\n").unwrap();
    assert_eq!(head.path.as_deref(), Some("/?q"));
    let head =
        parse("CONNECT allowed.test.:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n").unwrap();
    assert_eq!(
        (head.host.to_string().as_str(), head.port, head.path),
        ("allowed.test", 443, None)
    );
    let head = parse("CONNECT [2606:4700::1111]:443 HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(head.host.to_string(), "[2606:4700::1111]");
}

#[test]
fn what_other_readers_could_read_otherwise_is_refused() {
    let host = "Host: allowed.test\r\n";
    for (target, headers) in [
        ("/", host.to_owned()),
        ("https://allowed.test/", host.to_owned()),
        ("ftp://allowed.test/", host.to_owned()),
        ("*", host.to_owned()),
        ("http://allowed.test/", String::new()),
        ("http://allowed.test/", "Host: evil.example\r\n".to_owned()),
        ("http://allowed.test:81/", host.to_owned()),
        ("http://allowed.test/", format!("{host}{host}")),
        ("http://user@allowed.test/", host.to_owned()),
        ("http://allowed.test@evil.example/", host.to_owned()),
        ("http://allowed.test#@evil.example/", host.to_owned()),
        ("http://allowed.test\\@evil.example/", host.to_owned()),
        ("http://allowed.test:0/", host.to_owned()),
        ("http://allowed.test:65536/", host.to_owned()),
        ("http://allowed.test:+80/", host.to_owned()),
        ("http:///", host.to_owned()),
        (
            "http://allowed.test/",
            format!("{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Content-Length: 3\r\nContent-Length: 3\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Content-Length: 3, 3\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Content-Length: +3\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Content-Length: \r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Transfer-Encoding: chunked, chunked\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Transfer-Encoding: xchunked\r\n"),
        ),
        (
            "http://allowed.test/",
            format!("{host}Transfer-Encoding : chunked\r\n"),
        ),
        ("http://allowed.test/", format!("{host} folded\r\n")),
    ] {
        assert!(get(target, &headers).is_err(), "{target} {headers:?}");
    }
    for text in [
        "CONNECT allowed.test HTTP/1.1\r\n\r\n",
        "CONNECT http://allowed.test:443 HTTP/1.1\r\n\r\n",
        "CONNECT allowed.test%00.evil.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT allowed.test\0.evil.example:443 HTTP/1.1\r\n\r\n",
        "CONNECT 2130706433:443 HTTP/1.1\r\n\r\n",
        "CONNECT 0x7f.1:443 HTTP/1.1\r\n\r\n",
        "CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\n\r\n",
        "CONNECT allowed.test:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        "CONNECT allowed.test:443:80 HTTP/1.1\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\nHost: allowed.test\n\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\rX: y\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_head_has_a_bound() {
    let long = format!(
        "GET http://a.test/{} HTTP/1.1\r\n",
        "a".repeat(TARGET_BYTES_MAX)
    );
    assert_eq!(Head::parse(long.as_bytes()), Err(HeadError::TooLarge));
    let line = format!("X: {}\r\n", "a".repeat(1000));
    let many = format!("GET http://a.test/ HTTP/1.1\r\n{}", line.repeat(40));
    assert_eq!(Head::parse(many.as_bytes()), Err(HeadError::TooLarge));
    let small = format!(
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{}\r\n",
        "x: y\r\n".repeat(HEADERS_MAX)
    );
    assert_eq!(Head::parse(small.as_bytes()), Err(HeadError::TooLarge));
    assert_eq!(Head::parse(b"GET http://a.test/ HTTP/1.1\r\nHo"), Ok(None));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _no_panic = Head::parse(&bytes);
    }

    /// Cut anywhere, a good head is incomplete and not something else.
    #[test]
    fn a_part_of_a_head_is_no_head(cut in 0usize..70) {
        let text = b"POST http://a.test/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 12\r\n\r\n";
        let cut = cut.min(text.len() - 1);
        prop_assert_eq!(Head::parse(&text[..cut]), Ok(None));
    }

    #[test]
    fn near_requests_never_name_two_hosts(target in "(http://)?[a-z@:#/?\\\\.%0-9\\[\\]]{0,30}", host in "[a-z.:@0-9]{0,12}") {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        if let Ok(Some(head)) = Head::parse(text.as_bytes()) {
            let named = head.host.to_string();
            prop_assert!(target[7..].to_ascii_lowercase().starts_with(named.trim_end_matches('.')), "{target} {named}");
            prop_assert!(host.starts_with(&named), "{host} {named}");
        }
    }
}
