//! The one way out of a sandbox: decides where an agent's connections may go, and carries them there.
//!
//! An agent's network is empty but for its loopback, on which meshd holds one listener. What arrives there speaks HTTP
//! (`CONNECT`, or a request in absolute form) or SOCKS5. The steps are the same for all three:
//!
//! 1. What is asked for is decoded strictly ([`Head`], [`socks`]); two ways to read it are no way.
//! 2. [`Policy::decide`] compares it with what the agent was granted. Pure.
//! 3. The name is resolved once, every address is checked ([`Policy::permits_address`]), and the address that was
//!    checked is the one that is dialled: no second look at a name, so nothing to rebind.
//! 4. Bytes flow under limits of time, rate and number ([`Limits`]).
//!
//! A refusal is told to the agent as JSON, and to an [`Observer`], before whom a [`Digest`] keeps a flood short.

mod address;
mod bounds;
mod broker;
mod denial;
mod dial;
mod digest;
mod head;
mod host;
mod limits;
mod metered;
mod permit;
mod policy;
mod protocol;
mod request;
mod server;
mod service;
pub mod socks;

pub use address::{grants_from, refused_address};
pub use bounds::Bounds;
pub use broker::{Binding, HeaderTemplate, TemplateError};
pub use denial::{Code, Denial};
pub use dial::{Resolver, SystemResolver, TlsConfig, TlsError, tls_config};
pub use digest::{DIGEST_KEYS_MAX, DIGEST_WINDOW_MS, Digest, Noted};
pub use head::{HEAD_BYTES_MAX, HEADERS_MAX, Head, HeadError, TARGET_BYTES_MAX};
pub use host::{Host, HostError, Pattern};
pub use limits::Limits;
pub use permit::{Act, Permit};
pub use policy::{Ask, DomainRules, Policy, Verdict};
pub use protocol::Protocol;
pub use request::{PathPattern, RequestRule, RuleError, plain_path};
pub use server::{Credentials, NoCredentials, Observer, Proxy, ProxyParts};
pub use service::ServicePolicy;
