//! Posthaste's client: sessions, fail-over and streaming over one cheap handle.
//!
//! [`Client`] is the door. Behind it one background task (`driver`) owns every connection, the
//! session and the deadlines, so that calls share system calls and wake-ups instead of locks.
//! It never decides order and never repeats a command under another name: a command keeps its
//! session and sequence through every retry, which is what makes it take effect once
//! (Ongaro's thesis, §6.3).
//!
//! Every call ends in one of three ways before its deadline: acknowledged (`Ok`), rejected
//! ([`CallError::Rejected`]: no effect, now or later) or unknown ([`CallError::Unknown`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use client::{Client, NewMessage, Options, ReceiveOptions};
//!
//! let client = Client::connect(&["127.0.0.1:7400".into()], Options::default()).await?;
//! let sent = client.send(NewMessage::to("orders").body("one pair of boots")).await?;
//! println!("stored at {}", sent.receipt.position);
//!
//! for delivery in client.receive("orders", ReceiveOptions::default()).await? {
//!     println!("{}", String::from_utf8_lossy(&delivery.message.body));
//!     client.ack("orders", &[delivery.handle]).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Throughput comes from [`Client::enqueue`]: it returns as soon as the message has its place, and
//! thousands may be on their way at once. Next: `api` for the calls, `session` for the window.

#[cfg(feature = "sim")]
extern crate madsim_tokio as tokio;
#[cfg(all(feature = "sim", not(madsim)))]
compile_error!(
    "feature `sim` needs `--cfg madsim`: build inside the workspace, whose .cargo/config.toml sets it"
);

mod api;
mod backup;
mod call;
mod connection;
mod driver;
mod entropy;
mod error;
mod leadership;
mod members;
mod message;
mod options;
mod peers;
mod reader;
mod session;

pub use api::{Client, Pending};
pub use backup::{BackupError, BackupProgress};
pub use error::{CallError, ConnectError, Rejected, Unknown};
pub use members::{Changed, MemberRole, MemberStatus, Members};
pub use message::{Delivery, Handle, HandleError, NewMessage, ReceiveOptions, Stored};
pub use options::{Cluster, Node, Options};
pub use reader::{Read, ReadFrom, Reader};
