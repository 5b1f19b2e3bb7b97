//! Keeps the plugin in the container runtime's network configuration, and takes it out again.
//!
//! A runtime takes the first usable file of its folder, in the order of names; that one gets our plugin. Other programs
//! write there too, whenever they like, so the folder is watched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::CniConfig;
use super::conflist::{Unusable, same, with_plugin, without_plugin};
use super::folder::{Folder, absent_is_fine, replace};
use super::plugin::NAME;
use crate::pods::kubernetes::Fate;
use crate::watched::WatchedFolder;

/// What a runtime reads (libcni, `ConfFiles`).
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// A single plugin's file is kept under this name while a list stands in its place; no runtime reads it.
const KEPT: &str = "before-aquifer";
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} cannot be used: {source}", path.display())]
    Unusable { path: PathBuf, source: Unusable },
    #[error(
        "no network configuration in {}; is it the container runtime's folder (chart value agent.cni.confDir)?",
        .0.display()
    )]
    Nothing(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Installer {
    config: CniConfig,
    /// The plugin on the node is this version of it.
    is_copied: bool,
}

impl Installer {
    pub(crate) fn new(config: CniConfig) -> Self {
        Self {
            config,
            is_copied: false,
        }
    }

    /// Keeps the plugin where it belongs while the agents stay, and away while they leave. Ends by being dropped.
    pub(crate) async fn keep(
        mut self,
        mut fate: watch::Receiver<Fate>,
        mut namespaces: watch::Receiver<Arc<BTreeSet<String>>>,
    ) {
        let mut last = None;
        let mut quarrel = Quarrel::default();
        loop {
            let (stays, in_mesh) = (
                *fate.borrow_and_update() == Fate::Stays,
                namespaces.borrow_and_update().clone(),
            );
            // Before the look at the folder, so that no change falls between.
            let folder = WatchedFolder::open(&self.config.configurations);
            let done = self.apply(stays, &in_mesh);
            if matches!(done, Ok(Done::Written)) {
                quarrel
                    .pause(Instant::now(), &self.config.configurations_on_node)
                    .await;
            }
            let retry = tell(&mut last, done.map(|_| stays).map_err(|error| error.to_string()));
            tokio::select! {
                Ok(()) = fate.changed() => {}
                Ok(()) = namespaces.changed() => {}
                () = changed(folder.ok()) => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }

    fn apply(&mut self, stays: bool, namespaces: &BTreeSet<String>) -> Result<Done, InstallError> {
        if stays {
            return self.install(namespaces);
        }
        self.withdraw()?;
        Ok(Done::Nothing)
    }

    /// The plugin first, then who asks for it.
    fn install(&mut self, namespaces: &BTreeSet<String>) -> Result<Done, InstallError> {
        let folder = self.folder();
        let noted = folder.make().and_then(|()| folder.note(namespaces));
        noted.map_err(|source| failed("write in", folder.path(), source))?;
        self.copy()?;
        let (path, text) = self.chosen()?;
        let on_node = Folder::below(&self.config.configurations_on_node);
        let with = with_plugin(&text, on_node.path()).map_err(|source| unusable(&path, source))?;
        if same(&with, &text) {
            return Ok(Done::Nothing);
        }
        write_list(&path, &with)?;
        Ok(Done::Written)
    }

    /// Whether the runtime asks before it starts a pod: looked at, nothing is changed.
    pub(crate) fn is_in_place(&self) -> Result<bool, InstallError> {
        let (path, text) = self.chosen()?;
        let on_node = Folder::below(&self.config.configurations_on_node);
        let with = with_plugin(&text, on_node.path()).map_err(|source| unusable(&path, source))?;
        Ok(same(&with, &text) && self.config.plugins.join(NAME).exists())
    }

    fn folder(&self) -> Folder {
        Folder::below(&self.config.configurations)
    }

    fn copy(&mut self) -> Result<(), InstallError> {
        let plugin = self.config.plugins.join(NAME);
        if !self.is_copied || !plugin.exists() {
            let copied = fs::read("/proc/self/exe").and_then(|program| replace(&plugin, &program, 0o755));
            copied.map_err(|source| failed("write", &plugin, source))?;
            self.is_copied = true;
        }
        Ok(())
    }

    /// Takes out everything that was put in, at the end of the last agent. What is not there is no error.
    pub(crate) fn uninstall(&self) -> Result<(), InstallError> {
        self.withdraw()?;
        let folder = self.folder();
        folder
            .remove()
            .map_err(|source| failed("remove", folder.path(), source))
    }

    /// Nobody asks any more. The socket stays: the agents may stay after all.
    fn withdraw(&self) -> Result<(), InstallError> {
        for path in self.files()? {
            let text = read(&path)?;
            // Not ours to judge: a runtime passes over it as well.
            if let Ok(Some(without)) = without_plugin(&text) {
                put_back(&path, &without)?;
            }
        }
        let plugin = self.config.plugins.join(NAME);
        absent_is_fine(fs::remove_file(&plugin)).map_err(|source| failed("remove", &plugin, source))?;
        let folder = self.folder();
        folder
            .forget()
            .map_err(|source| failed("write in", folder.path(), source))
    }

    /// The configuration that the runtime uses.
    fn chosen(&self) -> Result<(PathBuf, String), InstallError> {
        let mut first_error = None;
        for path in self.files()? {
            let text = read(&path)?;
            match with_plugin(&text, Path::new("/")) {
                Ok(_) => return Ok((path, text)),
                // The runtime takes it, so it must not be passed over.
                Err(source @ Unusable::Version(_)) => return Err(unusable(&path, source)),
                Err(source) => drop(first_error.get_or_insert_with(|| unusable(&path, source))),
            }
        }
        Err(first_error.unwrap_or_else(|| InstallError::Nothing(self.config.configurations_on_node.clone())))
    }

    /// In the order in which a runtime reads them.
    fn files(&self) -> Result<Vec<PathBuf>, InstallError> {
        let folder = &self.config.configurations;
        let listed = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = listed.map_err(|source| failed("list", folder, source))?;
        let is_read = |path: &PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file()
        };
        let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(is_read).collect();
        files.sort();
        Ok(files)
    }
}

/// What an installation has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Nothing,
    Written,
}

/// Another program that writes the same file anew, and again: neither may keep a processor busy.
#[derive(Debug, Default)]
struct Quarrel {
    last: Option<Instant>,
    pause: Duration,
}

impl Quarrel {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(10);

    /// After the file was written, longer each time where that was so a short while ago.
    async fn pause(&mut self, now: Instant, folder: &Path) {
        tokio::time::sleep(self.next(now, folder)).await;
    }

    fn next(&mut self, now: Instant, folder: &Path) -> Duration {
        let again = self
            .last
            .is_some_and(|last| now.duration_since(last) < 2 * Self::LONGEST);
        self.last = Some(now);
        self.pause = match again {
            true => (self.pause * 2).clamp(Self::FIRST, Self::LONGEST),
            false => Duration::ZERO,
        };
        if again && self.pause == Self::LONGEST {
            tracing::warn!(folder = %folder.display(), "another program takes the CNI plugin out of the network configuration again and again: pods that start meanwhile talk plainly until they are captured");
        }
        self.pause
    }
}

/// Says what is new; whether to try again.
fn tell(last: &mut Option<Result<bool, String>>, done: Result<bool, String>) -> bool {
    let failed = done.is_err();
    if last.as_ref() != Some(&done) {
        match &done {
            Ok(true) => {
                tracing::info!("pods of the mesh start when they are captured: the CNI plugin is in place");
            }
            Ok(false) => tracing::info!("the CNI plugin is off this node"),
            Err(error) => {
                tracing::warn!(%error, "the CNI plugin is not in place: pods that start now talk plainly until they are captured");
            }
        }
        *last = Some(done);
    }
    failed
}

/// A list goes into files of its own extension only.
fn write_list(path: &Path, text: &str) -> Result<(), InstallError> {
    let list = path.with_extension("conflist");
    replace(&list, text.as_bytes(), 0o644).map_err(|source| failed("write", &list, source))?;
    if list != *path {
        let kept = kept(path);
        fs::rename(path, &kept).map_err(|source| failed("rename", path, source))?;
    }
    Ok(())
}

/// The file as it was before: what stood there alone, or the list without our plugin.
fn put_back(path: &Path, without: &str) -> Result<(), InstallError> {
    for extension in ["conf", "json"] {
        let single = path.with_extension(extension);
        if kept(&single).is_file() {
            fs::rename(kept(&single), &single).map_err(|source| failed("rename", &kept(&single), source))?;
            return fs::remove_file(path).map_err(|source| failed("remove", path, source));
        }
    }
    replace(path, without.as_bytes(), 0o644).map_err(|source| failed("write", path, source))
}

fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(KEPT);
    name.into()
}

async fn changed(folder: Option<WatchedFolder>) {
    if let Some(folder) = folder
        && folder.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

fn read(path: &Path) -> Result<String, InstallError> {
    fs::read_to_string(path).map_err(|source| failed("read", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> InstallError {
    InstallError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn unusable(path: &Path, source: Unusable) -> InstallError {
    InstallError::Unusable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"k8s","plugins":[{"type":"bridge"}]}"#;
    const SINGLE: &str = r#"{"cniVersion":"1.0.0","name":"k8s","type":"bridge"}"#;

    struct Node {
        _place: tempfile::TempDir,
        installer: Installer,
    }

    impl Node {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let config = CniConfig {
                configurations: place.path().join("net.d"),
                configurations_on_node: "/etc/cni/net.d".into(),
                plugins: place.path().join("bin"),
            };
            for folder in [&config.configurations, &config.plugins] {
                fs::create_dir(folder).unwrap();
            }
            Self {
                _place: place,
                installer: Installer::new(config),
            }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.installer.config.configurations.join(name)
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.file(name), text).unwrap();
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.installer.config.configurations).unwrap();
            let mut names: Vec<String> = entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn is_in(&self, name: &str) -> bool {
            fs::read_to_string(self.file(name)).unwrap().contains(NAME)
        }

        fn install(&mut self) -> Result<Done, InstallError> {
            self.installer.install(&["shop".to_owned()].into())
        }
    }

    #[test]
    fn the_first_usable_file_has_the_plugin_until_it_is_taken_out() {
        let mut node = Node::new();
        node.put("05-broken.conflist", "{");
        node.put("10-net.conflist", LIST);
        node.put("20-other.conflist", LIST);
        node.put("00-readme.txt", "not read");
        node.install().unwrap();
        assert!(node.is_in("10-net.conflist") && !node.is_in("20-other.conflist"));
        let plugin = node.installer.config.plugins.join(NAME);
        assert!(plugin.is_file());
        node.installer.uninstall().unwrap();
        assert!(!node.is_in("10-net.conflist") && !plugin.exists());
        assert!(!node.file("aquifer").exists());
        node.installer.uninstall().unwrap();
    }

    #[test]
    fn a_single_plugins_file_comes_back_as_it_was() {
        let mut node = Node::new();
        node.put("10-net.conf", SINGLE);
        node.install().unwrap();
        assert_eq!(
            node.names(),
            ["10-net.conf.before-aquifer", "10-net.conflist", "aquifer"]
        );
        node.install().unwrap();
        node.installer.uninstall().unwrap();
        assert_eq!(node.names(), ["10-net.conf"]);
        assert_eq!(fs::read_to_string(node.file("10-net.conf")).unwrap(), SINGLE);
    }

    #[test]
    fn an_empty_folder_and_a_broken_file_are_told_by_name() {
        let mut node = Node::new();
        let error = node.install().unwrap_err().to_string();
        assert!(
            error.contains("/etc/cni/net.d") && error.contains("agent.cni.confDir"),
            "{error}"
        );
        node.put("10-net.conflist", "{");
        let error = node.install().unwrap_err().to_string();
        assert!(error.contains("10-net.conflist"), "{error}");
    }

    #[test]
    fn a_configuration_that_is_too_old_is_not_passed_over() {
        let mut node = Node::new();
        node.put("10-net.conflist", &LIST.replace("1.0.0", "0.2.0"));
        node.put("20-other.conflist", LIST);
        let error = node.install().unwrap_err().to_string();
        assert!(
            error.contains("10-net.conflist") && error.contains("0.2.0"),
            "{error}"
        );
        assert!(!node.is_in("20-other.conflist"));
    }

    #[test]
    fn modes_stay_and_the_socket_outlives_a_withdrawal() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut node = Node::new();
        node.put("10-net.conflist", LIST);
        let file = node.file("10-net.conflist");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(node.install().unwrap(), Done::Written);
        assert_eq!(node.install().unwrap(), Done::Nothing);
        let socket = node.installer.folder().socket();
        fs::write(&socket, "").unwrap();
        node.installer.withdraw().unwrap();
        assert!(socket.exists() && !node.is_in("10-net.conflist"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_quarrel_over_the_file_slows_down_and_is_forgotten() {
        let (mut quarrel, now, folder) = (Quarrel::default(), Instant::now(), Path::new("/f"));
        assert_eq!(quarrel.next(now, folder), Duration::ZERO);
        assert_eq!(quarrel.next(now, folder), Quarrel::FIRST);
        let longest = (0..20).map(|_| quarrel.next(now, folder)).max();
        assert_eq!(longest, Some(Quarrel::LONGEST));
        assert_eq!(
            quarrel.next(now + Duration::from_secs(60), folder),
            Duration::ZERO
        );
    }

    #[tokio::test]
    async fn what_another_program_overwrites_is_mended_and_leaving_takes_it_out() {
        let node = Node::new();
        node.put("10-net.conflist", LIST);
        let fate = watch::Sender::new(Fate::Stays);
        let namespaces = watch::Sender::new(Arc::default());
        let keeper = tokio::spawn(
            node.installer
                .clone()
                .keep(fate.subscribe(), namespaces.subscribe()),
        );
        let until = async |wanted: bool| {
            while node.is_in("10-net.conflist") != wanted {
                tokio::task::yield_now().await;
            }
        };
        until(true).await;
        replace(&node.file("10-net.conflist"), LIST.as_bytes(), 0o644).unwrap();
        until(true).await;
        fate.send_replace(Fate::Leaves);
        until(false).await;
        fate.send_replace(Fate::Stays);
        until(true).await;
        keeper.abort();
    }
}
