//! `node start`: one node, until a signal or a failure.

use super::{Failure, runtime, stop_signal};
use engine::storage::{Identity, Store};
use node::clock::SystemClock;
use node::disk::FileDisk;
use node::settings::{LogFormat, Settings};
use node::{DiskPort, NodeConfig, Ports};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Runs a node in the foreground. SIGTERM and SIGINT stop it, and a leader hands over before; a crash
/// at any moment is safe too.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// TOML file with any of the settings below, named with underscores; flags win.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Stop when standard input closes: for whoever starts nodes as child processes.
    #[arg(long, hide = true)]
    stop_with_parent: bool,
}

/// How a node is to run, before it is known which.
pub(super) struct Setup {
    pub(super) data: PathBuf,
    settings: Settings,
    stop_with_parent: bool,
}

impl Start {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let setup = self.setup("make one with `node init` or `node join`")?;
        let mut disk = FileDisk::open(&setup.data)?;
        let identity = Store::read_identity(disk.recovery())
            .map_err(|error| format!("cannot use {}: {error}", setup.data.display()))?;
        runtime()?.block_on(async { setup.serve(disk, identity, stop_signal()?).await })
    }

    /// Reads the settings and begins to log.
    pub(super) fn setup(self, how_to_get_a_directory: &str) -> Result<Setup, Failure> {
        let settings = match &self.config {
            Some(file) => self.settings.or(read_settings(file)?),
            None => self.settings,
        };
        start_log(settings.log.unwrap_or_default());
        let data = settings.data.clone().ok_or_else(|| {
            format!(
                "no data directory: give --data DIR, or `data` in the file of --config; \
                 {how_to_get_a_directory}"
            )
        })?;
        Ok(Setup { data, settings, stop_with_parent: self.stop_with_parent })
    }
}

impl Setup {
    /// Runs the node of this identity until `stop` completes.
    pub(super) async fn serve(
        self,
        disk: FileDisk,
        identity: Identity,
        stop: impl Future<Output = &'static str> + Send + 'static,
    ) -> Result<ExitCode, Failure> {
        identity.check_founders()?;
        let mut config = NodeConfig::new(identity);
        self.settings.apply(&mut config)?;
        let seed = getrandom::u64()
            .map_err(|error| format!("the system gives no entropy for a seed: {error}"))?;
        let parent_is_gone = if self.stop_with_parent { Some(end_of_input()) } else { None };
        let shutdown = Box::pin(async move {
            let reason = tokio::select! {
                biased;
                signal = stop => signal,
                () = wait_for(parent_is_gone) => "end of standard input",
            };
            tracing::info!("stopping: {reason}");
        });
        let ports = Ports { disk, clock: SystemClock, seed, shutdown, observer: None };
        node::run(config, ports).await?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}

fn read_settings(file: &PathBuf) -> Result<Settings, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read the settings file {name}: {error}"))?;
    Ok(Settings::from_toml(&name, &text)?)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Resolves when standard input ends: a parent that dies in any way closes it.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    end
}

async fn wait_for(end: Option<oneshot::Receiver<()>>) {
    match end {
        Some(end) => {
            let _ = end.await;
        }
        None => std::future::pending().await,
    }
}
