//! What people may set: the same keys in a TOML file and as flags, where flags win.
//!
//! Owns the names, the units and the checks. `election_timeout = "150ms"` in the file is
//! `--election-timeout 150ms` on the command line. Next: `config` for what becomes of it.

mod quantities;

pub use quantities::{Drift, Size, Span};

use crate::config::NodeConfig;
use engine::limits;
use engine::time::Micros;
use serde::Deserialize;
use std::path::PathBuf;

/// Settings of a node, all optional. Each is a flag of `node start` and a key of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Data directory of this node.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen, HOST:PORT [default: the node's own member address].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// How to write the log to standard error [default: human].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Shortest election timeout; each is drawn from this to twice this [default: 150ms].
    #[arg(long, value_name = "SPAN", help_heading = "Timing")]
    pub election_timeout: Option<Span>,
    /// How often a leader says that it is there; at most a quarter of the election timeout
    /// [default: 30ms].
    #[arg(long, value_name = "SPAN", help_heading = "Timing")]
    pub heartbeat_interval: Option<Span>,
    /// Leadership goes to the node of the highest priority that is well and has caught up, 0 to 255
    /// [default: 0].
    #[arg(long, value_name = "N", help_heading = "Leadership")]
    pub priority: Option<u8>,
    /// Let the leader answer reads from a lease, which trusts clocks: how much a second of any two
    /// nodes' clocks may differ, like 500ppm; the same on every node [default: off, no clock is
    /// trusted].
    #[arg(long, value_name = "DRIFT", help_heading = "Leadership")]
    pub read_leases: Option<Drift>,
    /// How long a message id or a retried command is recognised; the same on every node
    /// [default: 10m].
    #[arg(long, value_name = "SPAN", help_heading = "Limits")]
    pub dedup_window: Option<Span>,
    /// Largest body of a message, at most 16MiB [default: 1MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub body_bytes_max: Option<Size>,
    /// A batch takes no further commands once it has this many bytes [default: 1MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub batch_bytes_target: Option<Size>,
    /// Uncommitted bytes at which a leader refuses commands as full [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub uncommitted_bytes_max: Option<Size>,
    /// Entries on their way to one follower [default: 256].
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub inflight_entries_max: Option<u64>,
    /// Bytes on their way to one follower [default: 16MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub inflight_bytes_max: Option<Size>,
    /// Memory for recent entries [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub log_cache_bytes_max: Option<Size>,
    /// Largest segment file [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub segment_bytes_max: Option<Size>,
    /// Sessions before the idlest expires; the same on every node [default: 100000].
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub sessions_max: Option<usize>,
    /// Requests that may wait on a leader [default: 65536].
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub waiting_requests_max: Option<usize>,
    /// Bytes of reads that may wait on a node [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub waiting_bytes_max: Option<Size>,
    /// Bytes of log after which a snapshot is made and older log can go; a snapshot that is larger
    /// than this waits for as much log as it has itself [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub snapshot_log_bytes: Option<Size>,
    /// Bytes of a snapshot in one message to a node that lags [default: 1MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub snapshot_chunk_bytes: Option<Size>,
    /// A node whose disk has less room than this, and twice its newest snapshot on top, is short of space.
    /// When a majority cannot be had without such nodes, sends are refused [default: 256MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub reserve_bytes: Option<Size>,
    /// Most bytes in the data directory: when so many are there, its disk counts as full. At least twice
    /// the reserve [default: as the disk has].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub data_bytes_max: Option<Size>,
    /// Clients connected at a time [default: 10000].
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub client_connections_max: Option<usize>,
    /// Bytes that may wait for one slow reader before it is cut off [default: 64MiB].
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub connection_outbound_bytes_max: Option<Size>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is not TOML, or a value has the wrong type.
    #[error("{file}: {reason}")]
    Toml {
        /// Which file.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// A key that means nothing.
    #[error("{file}, line {line}: unknown key `{key}`; {}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// Which file.
        file: String,
        /// Where, from 1.
        line: usize,
        /// What was written.
        key: String,
        /// What was meant, probably.
        nearest: Option<String>,
    },
    /// A value outside its range.
    #[error("{key} is {value}, but {rule}")]
    OutOfRange {
        /// Which setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        rule: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("known keys are {}", known_keys().join(", ")),
    }
}

/// The keys are the flags: one list for both.
fn known_keys() -> Vec<String> {
    let command = <Settings as clap::Args>::augment_args(clap::Command::new("node"));
    command.get_arguments().map(|argument| argument.get_id().to_string()).collect()
}

impl Settings {
    /// Reads the text of a settings file; `file` is its name for errors.
    ///
    /// # Errors
    /// It is not TOML, has an unknown key, or a value that cannot be read.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, SettingsError> {
        let toml = |error: toml::de::Error| SettingsError::Toml {
            file: file.to_owned(),
            reason: error.to_string(),
        };
        let table: toml::Table = text.parse().map_err(toml)?;
        let known = known_keys();
        if let Some(key) = table.keys().find(|key| !known.contains(key)) {
            let line = text.lines().position(|line| line.trim_start().starts_with(key.as_str()));
            return Err(SettingsError::UnknownKey {
                file: file.to_owned(),
                line: line.map_or(1, |line| line + 1),
                key: key.clone(),
                nearest: nearest(key, &known),
            });
        }
        toml::from_str(text).map_err(toml)
    }

    /// These settings, and those of `lower` where there is none here.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            data: self.data.or(lower.data),
            listen: self.listen.or(lower.listen),
            log: self.log.or(lower.log),
            election_timeout: self.election_timeout.or(lower.election_timeout),
            heartbeat_interval: self.heartbeat_interval.or(lower.heartbeat_interval),
            priority: self.priority.or(lower.priority),
            read_leases: self.read_leases.or(lower.read_leases),
            dedup_window: self.dedup_window.or(lower.dedup_window),
            body_bytes_max: self.body_bytes_max.or(lower.body_bytes_max),
            batch_bytes_target: self.batch_bytes_target.or(lower.batch_bytes_target),
            uncommitted_bytes_max: self.uncommitted_bytes_max.or(lower.uncommitted_bytes_max),
            inflight_entries_max: self.inflight_entries_max.or(lower.inflight_entries_max),
            inflight_bytes_max: self.inflight_bytes_max.or(lower.inflight_bytes_max),
            log_cache_bytes_max: self.log_cache_bytes_max.or(lower.log_cache_bytes_max),
            segment_bytes_max: self.segment_bytes_max.or(lower.segment_bytes_max),
            sessions_max: self.sessions_max.or(lower.sessions_max),
            waiting_requests_max: self.waiting_requests_max.or(lower.waiting_requests_max),
            waiting_bytes_max: self.waiting_bytes_max.or(lower.waiting_bytes_max),
            snapshot_log_bytes: self.snapshot_log_bytes.or(lower.snapshot_log_bytes),
            snapshot_chunk_bytes: self.snapshot_chunk_bytes.or(lower.snapshot_chunk_bytes),
            reserve_bytes: self.reserve_bytes.or(lower.reserve_bytes),
            data_bytes_max: self.data_bytes_max.or(lower.data_bytes_max),
            client_connections_max: self.client_connections_max.or(lower.client_connections_max),
            connection_outbound_bytes_max: self
                .connection_outbound_bytes_max
                .or(lower.connection_outbound_bytes_max),
        }
    }

    /// Changes `config` as far as anything is set.
    ///
    /// # Errors
    /// A value is outside its range.
    pub fn apply(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        if let Some(listen) = &self.listen {
            config.listen.clone_from(listen);
        }
        self.apply_timing(config)?;
        self.apply_leadership(config)?;
        self.apply_bytes(config)?;
        self.apply_snapshots(config)?;
        self.apply_space(config)?;
        let limits = &mut config.limits;
        set_count(
            "inflight_entries_max",
            self.inflight_entries_max,
            &mut limits.inflight_entries_max,
        )?;
        set_count("sessions_max", self.sessions_max, &mut limits.sessions_max)?;
        set_count(
            "waiting_requests_max",
            self.waiting_requests_max,
            &mut limits.waiting_requests_max,
        )?;
        set_count(
            "client_connections_max",
            self.client_connections_max,
            &mut config.client_connections_max,
        )
    }

    fn apply_timing(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        if let Some(span) = self.election_timeout {
            config.election_timeout = span.0;
            check_span("election_timeout", span, Micros::from_millis(10), Micros::from_secs(60))?;
        }
        if let Some(span) = self.heartbeat_interval {
            config.heartbeat_interval = span.0;
        } else if let Some(span) = self.election_timeout {
            // The default ratio, so that setting the one is enough.
            config.heartbeat_interval = Micros(span.0.0 / 5);
        }
        let longest = Micros(config.election_timeout.0 / 4);
        let heartbeat = Span(config.heartbeat_interval);
        check_span("heartbeat_interval", heartbeat, Micros::from_millis(1), longest)?;
        if let Some(span) = self.dedup_window {
            check_span("dedup_window", span, Micros::from_secs(1), Micros::from_secs(7 * 86_400))?;
            config.limits.dedup_window_millis = span.0.as_millis();
        }
        Ok(())
    }

    fn apply_leadership(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        if let Some(priority) = self.priority {
            config.priority = priority;
        }
        if let Some(drift) = self.read_leases {
            if !(Drift(1)..=READ_LEASES_MAX).contains(&drift) {
                let (key, value) = ("read_leases", drift.to_string());
                let rule = format!("it must be from 1ppm to {READ_LEASES_MAX}");
                return Err(SettingsError::OutOfRange { key, value, rule });
            }
            config.lease_drift_ppm = Some(drift.0);
        }
        Ok(())
    }

    fn apply_snapshots(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        let limits = &mut config.limits;
        if let Some(size) = self.snapshot_log_bytes {
            check_size("snapshot_log_bytes", size, MIB, 1024 * 1024 * MIB)?;
            limits.snapshot_log_bytes = size.0;
        }
        let chunk_max = limits::SNAPSHOT_CHUNK_BYTES_MAX as u64;
        let chunk = &mut limits.snapshot_chunk_bytes_max;
        set_size("snapshot_chunk_bytes", self.snapshot_chunk_bytes, 1024, chunk_max, chunk)
    }

    fn apply_space(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        let limits = &mut config.limits;
        if let Some(size) = self.reserve_bytes {
            check_size("reserve_bytes", size, MIB, 1024 * 1024 * MIB)?;
            limits.reserve_bytes = size.0;
        }
        if let Some(size) = self.data_bytes_max {
            // Or the node would be short of space from the beginning.
            let smallest = 2 * limits.reserve_bytes;
            check_size("data_bytes_max", size, smallest, u64::MAX)?;
            limits.data_bytes_max = size.0;
        }
        Ok(())
    }

    fn apply_bytes(&self, config: &mut NodeConfig) -> Result<(), SettingsError> {
        let limits = &mut config.limits;
        if let Some(size) = self.body_bytes_max {
            check_size("body_bytes_max", size, 1, u64::from(limits::BODY_BYTES_MAX))?;
            limits.body_bytes_max = u32::try_from(size.0).expect("checked above");
        }
        let batch_max = limits::BATCH_BYTES_TARGET as u64;
        set_size(
            "batch_bytes_target",
            self.batch_bytes_target,
            1,
            batch_max,
            &mut limits.batch_bytes_target,
        )?;
        let uncommitted = &mut limits.uncommitted_bytes_max;
        set_size(
            "uncommitted_bytes_max",
            self.uncommitted_bytes_max,
            MIB,
            64 * 1024 * MIB,
            uncommitted,
        )?;
        let inflight = &mut limits.inflight_bytes_max;
        set_size("inflight_bytes_max", self.inflight_bytes_max, MIB, 1024 * MIB, inflight)?;
        let cache = &mut limits.log_cache_bytes_max;
        let cache_min = 2 * limits::RECORD_PAYLOAD_BYTES_MAX as u64;
        set_size(
            "log_cache_bytes_max",
            self.log_cache_bytes_max,
            cache_min,
            1024 * 1024 * MIB,
            cache,
        )?;
        if let Some(size) = self.segment_bytes_max {
            let smallest = limits::RECORD_PAYLOAD_BYTES_MAX as u64 + MIB;
            check_size("segment_bytes_max", size, smallest, 4 * 1024 * MIB)?;
            limits.segment_bytes_max = size.0;
        }
        let waiting = &mut limits.waiting_bytes_max;
        set_size("waiting_bytes_max", self.waiting_bytes_max, MIB, 64 * 1024 * MIB, waiting)?;
        set_size(
            "connection_outbound_bytes_max",
            self.connection_outbound_bytes_max,
            MIB,
            64 * 1024 * MIB,
            &mut config.connection_outbound_bytes_max,
        )
    }
}

const MIB: u64 = 1024 * 1024;
/// Clocks that drift more than a tenth are broken.
const READ_LEASES_MAX: Drift = Drift(100_000);

fn check_span(
    key: &'static str,
    span: Span,
    min: Micros,
    max: Micros,
) -> Result<(), SettingsError> {
    if (min..=max).contains(&span.0) {
        return Ok(());
    }
    let rule = format!("it must be from {} to {}", Span(min), Span(max));
    Err(SettingsError::OutOfRange { key, value: span.to_string(), rule })
}

fn check_size(key: &'static str, size: Size, min: u64, max: u64) -> Result<(), SettingsError> {
    if (min..=max).contains(&size.0) {
        return Ok(());
    }
    let rule = format!("it must be from {} to {}", Size(min), Size(max));
    Err(SettingsError::OutOfRange { key, value: size.to_string(), rule })
}

fn set_size(
    key: &'static str,
    size: Option<Size>,
    min: u64,
    max: u64,
    field: &mut usize,
) -> Result<(), SettingsError> {
    let Some(size) = size else { return Ok(()) };
    check_size(key, size, min, max)?;
    *field = usize::try_from(size.0).unwrap_or(usize::MAX);
    Ok(())
}

fn set_count<N: Copy + PartialEq + From<u8>>(
    key: &'static str,
    count: Option<N>,
    field: &mut N,
) -> Result<(), SettingsError> {
    let Some(count) = count else { return Ok(()) };
    if count == N::from(0) {
        let rule = "it must be at least 1".to_owned();
        return Err(SettingsError::OutOfRange { key, value: "0".to_owned(), rule });
    }
    *field = count;
    Ok(())
}

fn nearest(key: &str, known: &[String]) -> Option<String> {
    let distance = |candidate: &&String| strsim::damerau_levenshtein(key, candidate);
    let best = known.iter().min_by_key(distance)?;
    // Half of the letters wrong is a guess and not a typing error.
    (distance(&best) * 2 <= key.len().max(2)).then(|| best.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::ids::{ClusterId, GroupId, NodeId};
    use engine::storage::Identity;

    fn config() -> NodeConfig {
        let members = vec![(NodeId(1), "10.0.0.1:7100".to_owned())];
        let cluster = ClusterId([1; 16]);
        NodeConfig::new(Identity::founder(cluster, GroupId(0), NodeId(1), members))
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest_known_one() {
        let text = "listen = \"0.0.0.0:7100\"\n\nelectoin_timeout = \"1s\"\n";
        let error = Settings::from_toml("node.toml", text).unwrap_err().to_string();
        assert_eq!(
            error,
            "node.toml, line 3: unknown key `electoin_timeout`; did you mean `election_timeout`?"
        );
        let error = Settings::from_toml("node.toml", "colour = 1").unwrap_err().to_string();
        assert!(error.contains("known keys are data, listen, log,"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file = Settings::from_toml(
            "node.toml",
            "election_timeout = \"1s\"\nbody_bytes_max = \"2MiB\"\nlog = \"json\"",
        )
        .unwrap();
        let flags =
            Settings { election_timeout: Some("2s".parse().unwrap()), ..Settings::default() };
        let settings = flags.or(file);
        let mut config = config();
        settings.apply(&mut config).unwrap();
        assert_eq!(config.election_timeout, Micros::from_secs(2));
        assert_eq!(config.heartbeat_interval, Micros::from_millis(400));
        assert_eq!(config.limits.body_bytes_max, 2 * 1024 * 1024);
        assert_eq!(settings.log, Some(LogFormat::Json));
        assert_eq!(config.listen, "10.0.0.1:7100");
    }

    #[test]
    fn every_key_can_be_set_in_a_file() {
        for key in known_keys() {
            let text = match key.as_str() {
                "data" | "listen" => format!("{key} = \"x:1\""),
                "log" => format!("{key} = \"human\""),
                "election_timeout" | "heartbeat_interval" | "dedup_window" => {
                    format!("{key} = \"30s\"")
                }
                "read_leases" => format!("{key} = \"500ppm\""),
                bytes if bytes.contains("_bytes") => format!("{key} = \"32MiB\""),
                _ => format!("{key} = 5"),
            };
            let settings = Settings::from_toml("node.toml", &text).unwrap();
            assert_ne!(settings, Settings::default(), "{key}");
            assert_eq!(settings.clone().or(Settings::default()), settings, "{key}");
            assert_eq!(Settings::default().or(settings.clone()), settings, "{key}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for (text, expected) in [
            (
                "body_bytes_max = \"17MiB\"",
                "body_bytes_max is 17MiB, but it must be from 1B to 16MiB",
            ),
            (
                "heartbeat_interval = \"100ms\"",
                "heartbeat_interval is 100ms, but it must be from 1ms to 37500us",
            ),
            (
                "read_leases = \"200000ppm\"",
                "read_leases is 200000ppm, but it must be from 1ppm to 100000ppm",
            ),
            (
                "snapshot_chunk_bytes = \"2MiB\"",
                "snapshot_chunk_bytes is 2MiB, but it must be from 1KiB to 1MiB",
            ),
            (
                "reserve_bytes = \"1KiB\"",
                "reserve_bytes is 1KiB, but it must be from 1MiB to 1024GiB",
            ),
            ("sessions_max = 0", "sessions_max is 0, but it must be at least 1"),
        ] {
            let settings = Settings::from_toml("node.toml", text).unwrap();
            assert_eq!(settings.apply(&mut config()).unwrap_err().to_string(), expected);
        }
    }
}
