use super::*;

/// A deadline for events that come within milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(60);

struct Running {
    folder: tempfile::TempDir,
    events: mpsc::Receiver<SourceEvent>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), SourceError>>,
}

impl Running {
    fn start(folder: tempfile::TempDir) -> Self {
        let (sender, events) = mpsc::channel(100);
        let cancel = CancellationToken::new();
        let source = Box::new(FolderSource::new(folder.path()));
        let task = tokio::spawn(source.run(sender, cancel.clone()));
        Self {
            folder,
            events,
            cancel,
            task,
        }
    }

    async fn next(&mut self) -> SourceEvent {
        tokio::time::timeout(SOON, self.events.recv())
            .await
            .expect("an event comes")
            .expect("the source runs")
    }

    async fn next_text(&mut self) -> String {
        match self.next().await {
            SourceEvent::Applied { origin, object } => format!("+{origin} {}", object.key),
            SourceEvent::Deleted { origin, key } => format!("-{origin} {key}"),
            SourceEvent::Unreadable { origin, problems } => format!("?{origin} {}", problems.len()),
            SourceEvent::Synced => "synced".to_owned(),
        }
    }

    /// As a careful writer does it: whole files only.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let temporary = self.folder.path().join(".new");
        std::fs::write(&temporary, content).unwrap();
        std::fs::rename(temporary, self.folder.path().join(name)).unwrap();
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
}

#[tokio::test]
async fn delivers_what_is_there_then_every_change() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), account("a")).unwrap();
    std::fs::write(folder.path().join(".hidden.yaml"), account("h")).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "no manifest").unwrap();
    let mut running = Running::start(folder);
    assert_eq!(running.next_text().await, "+a.yaml ServiceAccount default/a");
    assert_eq!(running.next_text().await, "synced");
    running.write("b.yaml", account("b"));
    assert_eq!(running.next_text().await, "+b.yaml ServiceAccount default/b");
    running.write("b.yaml", account("c"));
    assert_eq!(running.next_text().await, "-b.yaml ServiceAccount default/b");
    assert_eq!(running.next_text().await, "+b.yaml ServiceAccount default/c");
    std::fs::remove_file(running.folder.path().join("a.yaml")).unwrap();
    assert_eq!(running.next_text().await, "-a.yaml ServiceAccount default/a");
    running.stop().await;
}

#[tokio::test]
async fn follows_new_folders() {
    let mut running = Running::start(tempfile::tempdir().unwrap());
    assert_eq!(running.next_text().await, "synced");
    let below = running.folder.path().join("x/y");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(
        below.join("a.json"),
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}"#,
    )
    .unwrap();
    assert_eq!(running.next_text().await, "+x/y/a.json Namespace n");
    std::fs::remove_dir_all(running.folder.path().join("x")).unwrap();
    assert_eq!(running.next_text().await, "-x/y/a.json Namespace n");
    running.stop().await;
}

#[tokio::test]
async fn a_binary_file_and_a_broken_one_are_named_and_heal() {
    let mut running = Running::start(tempfile::tempdir().unwrap());
    assert_eq!(running.next_text().await, "synced");
    running.write("junk.yaml", [0u8, 159, 146, 150]);
    assert_eq!(running.next_text().await, "?junk.yaml 1");
    running.write("big.json", vec![b'{'; 1 << 20]);
    assert_eq!(running.next_text().await, "?big.json 1");
    running.write("a.yaml", account("a"));
    assert_eq!(running.next_text().await, "+a.yaml ServiceAccount default/a");
    running.write("junk.yaml", account("j"));
    assert_eq!(running.next_text().await, "+junk.yaml ServiceAccount default/j");
    assert_eq!(running.next_text().await, "?junk.yaml 0");
    running.stop().await;
}

#[tokio::test]
async fn a_missing_folder_is_said() {
    let (sender, _events) = mpsc::channel(1);
    let source = Box::new(FolderSource::new("/nonexistent/aquifer"));
    let error = source.run(sender, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/aquifer"), "{error}");
}

#[tokio::test]
async fn an_edit_that_cannot_be_read_takes_nothing_out_of_effect() {
    let mut running = Running::start(tempfile::tempdir().unwrap());
    assert_eq!(running.next_text().await, "synced");
    running.write("a.yaml", format!("{}---\n{}", account("a"), account("b")));
    assert_eq!(running.next_text().await, "+a.yaml ServiceAccount default/a");
    assert_eq!(running.next_text().await, "+a.yaml ServiceAccount default/b");
    running.write("a.yaml", format!("{}---\nkind: [", account("a")));
    let SourceEvent::Unreadable { problems, .. } = running.next().await else {
        panic!("nothing but a problem is due")
    };
    assert!(
        problems[1].contains("default/b stood here before"),
        "{problems:?}"
    );
    running.write("a.yaml", vec![b'#'; document::MAX_FILE + 1]);
    assert_eq!(running.next_text().await, "?a.yaml 3");
    running.write("a.yaml", account("b"));
    assert_eq!(running.next_text().await, "-a.yaml ServiceAccount default/a");
    assert_eq!(running.next_text().await, "?a.yaml 0");
    std::fs::remove_file(running.folder.path().join("a.yaml")).unwrap();
    assert_eq!(running.next_text().await, "-a.yaml ServiceAccount default/b");
    running.stop().await;
}

/// Reading any of them would wait for ever, or for what is none of ours.
#[tokio::test]
async fn what_is_no_file_is_named_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&at("fifo.yaml"), mode).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.yaml")).unwrap();
    for (name, target) in [
        ("kernel.yaml", "/proc/kmsg"),
        ("self.yaml", "/proc/self/status"),
        ("zero.json", "/dev/zero"),
        ("nothing.json", "/nonexistent"),
    ] {
        std::os::unix::fs::symlink(target, at(name)).unwrap();
    }
    // A link to a file is fine: mounted ConfigMaps are made of them.
    std::fs::write(at(".data"), account("linked")).unwrap();
    std::os::unix::fs::symlink(at(".data"), at("linked.yaml")).unwrap();
    let mut running = Running::start(folder);
    let mut seen = Vec::new();
    loop {
        match running.next_text().await {
            text if text == "synced" => break,
            text => seen.push(text),
        }
    }
    let expected = [
        "?fifo.yaml 1",
        "?kernel.yaml 1",
        "+linked.yaml ServiceAccount default/linked",
        "?self.yaml 1",
        "?socket.yaml 1",
        "?zero.json 1",
    ];
    assert_eq!(seen, expected);
    running.write("a.yaml", account("a"));
    assert_eq!(running.next_text().await, "+a.yaml ServiceAccount default/a");
    running.stop().await;
}
