//! Where the daemon is, and with which token to speak to it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::exit::Failure;
use crate::tls::{TlsError, TlsFiles};

/// Where meshd listens unless it is told otherwise.
const URL_DEFAULT: &str = "http://127.0.0.1:8080";
/// Where meshd keeps its data unless it is told otherwise.
const DATA_DEFAULT: &str = "./.mesh";
/// The file in the data directory that holds the daemon's URL.
const ENDPOINT_FILE: &str = "endpoint";
/// The file in the data directory that holds its first token.
const TOKEN_FILE: &str = "token";
/// The file in the data directory that holds the certificates of a daemon that speaks TLS.
const CA_FILE: &str = "endpoint.ca";
/// Both files hold one short line; anything longer is some other file.
const FILE_BYTES_MAX: u64 = 4096;

/// What the environment says. Empty variables count as absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `MESH_URL`.
    pub(crate) url: Option<String>,
    /// `MESH_TOKEN`: the token itself.
    pub(crate) token: Option<String>,
    /// `MESH_DATA`.
    pub(crate) data: Option<PathBuf>,
    /// `MESH_CA`.
    pub(crate) ca: Option<PathBuf>,
    /// `MESH_CERT`.
    pub(crate) cert: Option<PathBuf>,
    /// `MESH_CERT_KEY`.
    pub(crate) cert_key: Option<PathBuf>,
    /// `NO_COLOR` is set.
    pub(crate) no_color: bool,
}

impl Environment {
    /// Reads the process's environment; the only place that does.
    pub(crate) fn read() -> Self {
        let text = |name| {
            std::env::var(name)
                .ok()
                .filter(|value: &String| !value.is_empty())
        };
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            url: text("MESH_URL"),
            token: text("MESH_TOKEN"),
            data: path("MESH_DATA"),
            ca: path("MESH_CA"),
            cert: path("MESH_CERT"),
            cert_key: path("MESH_CERT_KEY"),
            no_color: text("NO_COLOR").is_some(),
        }
    }
}

/// What the command line says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags<'a> {
    /// `--url`.
    pub(crate) url: Option<&'a str>,
    /// `--token-file`.
    pub(crate) token_file: Option<&'a Path>,
    /// `--data`.
    pub(crate) data: Option<&'a Path>,
    /// `--ca`.
    pub(crate) ca: Option<&'a Path>,
    /// `--cert`.
    pub(crate) cert: Option<&'a Path>,
    /// `--cert-key`.
    pub(crate) cert_key: Option<&'a Path>,
}

/// A daemon's address and our token, each with where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without a slash at the end.
    pub(crate) url: String,
    /// Such as `from --url`.
    pub(crate) url_origin: String,
    /// Absent when none was found; the public routes need none.
    pub(crate) token: Option<String>,
    /// Such as `from MESH_TOKEN`, or why there is none.
    pub(crate) token_origin: String,
    /// For an `https` address.
    pub(crate) tls: TlsFiles,
}

/// Why no endpoint could be made out of what was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// Not an address that we can speak to.
    #[error("{url} ({origin}) is not an address of the form http://HOST:PORT or https://HOST:PORT")]
    BadUrl { url: String, origin: String },
    /// The token file that was named is not there.
    #[error("cannot read the token file {}: {source}", path.display())]
    TokenFile {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A token is one visible word.
    #[error("the token {origin} is not one word of visible characters")]
    BadToken { origin: String },
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Self::usage(error.to_string())
    }
}

/// Whether the user named a daemon, instead of leaving it to the files of this machine.
pub(crate) fn is_named(flags: Flags<'_>, env: &Environment) -> bool {
    flags.url.is_some() || env.url.is_some()
}

/// The data directory: `--data`, else `MESH_DATA`, else `./.mesh`.
pub(crate) fn data_dir(flags: Flags<'_>, env: &Environment) -> PathBuf {
    named_data(flags, env).unwrap_or_else(|| DATA_DEFAULT.into())
}

/// The data directory, if the user named one: `--data`, else `MESH_DATA`.
pub(crate) fn named_data(flags: Flags<'_>, env: &Environment) -> Option<PathBuf> {
    flags.data.or(env.data.as_deref()).map(Path::to_path_buf)
}

/// Finds the daemon: `--url`, else `MESH_URL`, else `<data>/endpoint`, else the default; and the token:
/// `--token-file`, else `MESH_TOKEN`, else, without a certificate to show, `<data>/token`. Whom to trust is said by `--ca`,
/// else `MESH_CA`, else for the URL of `<data>/endpoint` by `<data>/endpoint.ca`.
///
/// # Errors
/// [`EndpointError`] when what was given cannot be used. A missing `<data>/endpoint` or `<data>/token` is no error.
pub(crate) fn find(flags: Flags<'_>, env: &Environment) -> Result<Endpoint, EndpointError> {
    let data = data_dir(flags, env);
    let (url, url_origin) = url(flags, env, &data);
    let url = checked_url(url.trim(), &url_origin)?;
    let pick = |flag: Option<&Path>, env: &Option<PathBuf>| {
        flag.map(Path::to_path_buf).or_else(|| env.clone())
    };
    let beside = data.join(CA_FILE);
    let of_this_machine = !is_named(flags, env) && beside.is_file();
    let tls = TlsFiles {
        ca: pick(flags.ca, &env.ca).or_else(|| of_this_machine.then_some(beside)),
        cert: pick(flags.cert, &env.cert),
        key: pick(flags.cert_key, &env.cert_key),
    };
    let (token, token_origin) = token(flags, env, &data, tls.cert.is_some())?;
    Ok(Endpoint {
        url,
        url_origin,
        token,
        token_origin,
        tls,
    })
}

fn url(flags: Flags<'_>, env: &Environment, data: &Path) -> (String, String) {
    if let Some(url) = flags.url {
        return (url.to_owned(), "from --url".to_owned());
    }
    if let Some(url) = &env.url {
        return (url.clone(), "from MESH_URL".to_owned());
    }
    let file = data.join(ENDPOINT_FILE);
    match read_line(&file) {
        Ok(url) if !url.is_empty() => (url, format!("from {}", file.display())),
        Ok(_) | Err(_) => (
            URL_DEFAULT.to_owned(),
            format!("the default; there is no {}", file.display()),
        ),
    }
}

fn checked_url(url: &str, origin: &str) -> Result<String, EndpointError> {
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| url.starts_with(scheme));
    let host = scheme
        .and_then(|scheme| url.strip_prefix(scheme))
        .map(|rest| rest.trim_end_matches('/'));
    let is_host = |host: &&str| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@'))
    };
    match scheme.zip(host.filter(is_host)) {
        Some((scheme, host)) => Ok(format!("{scheme}{host}")),
        None => Err(EndpointError::BadUrl {
            url: url.to_owned(),
            origin: origin.to_owned(),
        }),
    }
}

fn token(
    flags: Flags<'_>,
    env: &Environment,
    data: &Path,
    with_certificate: bool,
) -> Result<(Option<String>, String), EndpointError> {
    let (token, origin) = if let Some(path) = flags.token_file {
        let token = read_line(path).map_err(|source| EndpointError::TokenFile {
            path: path.to_path_buf(),
            source,
        })?;
        (token, format!("from {}", path.display()))
    } else if let Some(token) = &env.token {
        (token.trim().to_owned(), "from MESH_TOKEN".to_owned())
    } else if with_certificate {
        // Whoever shows a certificate wants to be the one in it; a token would decide instead.
        return Ok((None, "not sent where a certificate is shown".to_owned()));
    } else {
        let path = data.join(TOKEN_FILE);
        match read_line(&path) {
            Ok(token) => (token, format!("from {}", path.display())),
            Err(error) => return Ok((None, format!("{}: {error}", path.display()))),
        }
    };
    // It becomes part of a header line; whatever else is in there would be somebody's injection.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(EndpointError::BadToken { origin });
    }
    Ok((Some(token), origin))
}

fn read_line(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn url_comes_from_flag_then_environment_then_file_then_default() {
        let data = data_with(&[("endpoint", "http://127.0.0.1:3\n")]);
        let empty = data_with(&[]);
        let env = Environment {
            url: Some("http://127.0.0.1:2".into()),
            ..Environment::default()
        };
        let none = Environment::default();
        let flag = Flags {
            url: Some("http://127.0.0.1:1/"),
            data: Some(data.path()),
            ..Flags::default()
        };
        let no_flag = Flags { url: None, ..flag };
        let no_file = Flags {
            data: Some(empty.path()),
            ..no_flag
        };
        for (flags, env, expected) in [
            (flag, &env, "http://127.0.0.1:1"),
            (no_flag, &env, "http://127.0.0.1:2"),
            (no_flag, &none, "http://127.0.0.1:3"),
            (no_file, &none, "http://127.0.0.1:8080"),
        ] {
            assert_eq!(find(flags, env).unwrap().url, expected);
        }
    }

    #[test]
    fn token_comes_from_flag_then_environment_then_file() {
        let data = data_with(&[("token", "three\n"), ("mine", "one\n")]);
        let empty = data_with(&[]);
        let mine = data.path().join("mine");
        let env = Environment {
            token: Some("two".into()),
            ..Environment::default()
        };
        let none = Environment::default();
        let flag = Flags {
            token_file: Some(&mine),
            data: Some(data.path()),
            ..Flags::default()
        };
        let no_flag = Flags {
            token_file: None,
            ..flag
        };
        let no_file = Flags {
            data: Some(empty.path()),
            ..no_flag
        };
        for (flags, env, expected) in [
            (flag, &env, Some("one")),
            (no_flag, &env, Some("two")),
            (no_flag, &none, Some("three")),
            (no_file, &none, None),
        ] {
            assert_eq!(find(flags, env).unwrap().token.as_deref(), expected);
        }
    }

    #[test]
    fn with_a_certificate_only_a_token_that_was_named_is_sent() {
        let data = data_with(&[("token", "admin\n"), ("endpoint.ca", "")]);
        let (none, beside) = (Environment::default(), data.path().join("endpoint.ca"));
        let env = Environment {
            token: Some("mine".into()),
            cert: Some("/env/cert".into()),
            ..Environment::default()
        };
        let plain = Flags {
            data: Some(data.path()),
            ..Flags::default()
        };
        let shown = Flags {
            cert: Some(Path::new("/flag/cert")),
            cert_key: Some(Path::new("/flag/key")),
            ..plain
        };
        let found = find(plain, &none).unwrap();
        assert_eq!(found.token.as_deref(), Some("admin"));
        assert_eq!(found.tls.ca, Some(beside));
        let found = find(shown, &none).unwrap();
        assert_eq!(found.token, None);
        assert_eq!(found.tls.key.as_deref(), Some(Path::new("/flag/key")));
        let found = find(plain, &env).unwrap();
        assert_eq!(found.token.as_deref(), Some("mine"));
        assert_eq!(found.tls.cert.as_deref(), Some(Path::new("/env/cert")));
        let elsewhere = Flags {
            url: Some("https://mesh.example:8443"),
            ..plain
        };
        let found = find(elsewhere, &none).unwrap();
        assert_eq!(found.url, "https://mesh.example:8443");
        assert_eq!(
            found.tls.ca, None,
            "this machine's says nothing about others"
        );
    }

    #[test]
    fn data_directory_comes_from_flag_then_environment_then_default() {
        let env = Environment {
            data: Some("/env".into()),
            ..Environment::default()
        };
        let flag = Flags {
            data: Some(Path::new("/flag")),
            ..Flags::default()
        };
        assert_eq!(data_dir(flag, &env), Path::new("/flag"));
        assert_eq!(data_dir(Flags::default(), &env), Path::new("/env"));
        assert_eq!(
            data_dir(Flags::default(), &Environment::default()),
            Path::new("./.mesh")
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_origin() {
        for url in [
            "https://",
            "ftp://127.0.0.1:1",
            "127.0.0.1:8080",
            "http://",
            "http://h/path",
            "http://u@h",
            "http://a b",
        ] {
            let error = find(
                Flags {
                    url: Some(url),
                    ..Flags::default()
                },
                &Environment::default(),
            );
            let told = error.unwrap_err().to_string();
            assert!(
                told.contains(url.trim_end_matches('/')) && told.contains("--url"),
                "{told}"
            );
        }
        let data = data_with(&[("token", "one\r\nX-Evil: 1")]);
        let flags = Flags {
            data: Some(data.path()),
            ..Flags::default()
        };
        assert!(matches!(
            find(flags, &Environment::default()),
            Err(EndpointError::BadToken { .. })
        ));
        let missing = data.path().join("nowhere");
        let flags = Flags {
            token_file: Some(&missing),
            ..flags
        };
        assert!(matches!(
            find(flags, &Environment::default()),
            Err(EndpointError::TokenFile { .. })
        ));
    }
}
