//! Ctrl-C in the programs that bring up a lab or a cluster of their own, or put something on somebody else's: it goes
//! with them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;

use crate::lab;
use crate::lab::layout::LabName;

/// What shells report for a program that Ctrl-C ended.
const INTERRUPTED_STATUS: i32 = 130;

/// The thread that waits for signals.
const WATCHER: &str = "signals";

/// Set once a signal is being answered: then only the watcher ends the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Held by whoever makes something or takes it down: the watcher waits for what the main thread has begun.
static TURN: Mutex<()> = Mutex::new(());

/// From now on SIGINT and SIGTERM take the lab down, whatever the main thread is doing, and end the
/// process.
pub fn take_down_on_signal(name: LabName) -> io::Result<()> {
    on_signal(move || lab::take_down(&name).map_err(|error| error.to_string()))
}

/// From now on SIGINT and SIGTERM run `take_down`, whatever the main thread is doing, and end the process.
///
/// Call it before any other thread starts: the signals are blocked here and in all threads to come, so
/// that only the watcher sees them.
pub fn on_signal(take_down: impl FnOnce() -> Result<(), String> + Send + 'static) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    silence_what_follows();
    let watch = move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\n{signal}: taking everything down");
        let _turn = TURN.lock();
        if let Err(error) = take_down() {
            eprintln!("{error}");
        }
        std::process::exit(INTERRUPTED_STATUS);
    };
    std::thread::Builder::new()
        .name(WATCHER.to_owned())
        .spawn(watch)
        .map(drop)
}

/// Once a signal is being answered, a panic of any other thread is a consequence of it: it is not told, and its thread
/// waits for the end of the process.
fn silence_what_follows() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(WATCHER) {
            wait_if_interrupted();
        }
        tell(panic);
    }));
}

/// Runs what makes, or removes, something that the watcher would have to remove: a signal does not cut it in two, and it
/// does not begin once one is being answered. Not to be nested, and nothing in it may panic.
pub fn in_turn<T>(act: impl FnOnce() -> T) -> T {
    let _turn = loop {
        let turn = TURN.lock();
        if !INTERRUPTED.load(Ordering::SeqCst) {
            break turn;
        }
        drop(turn);
        wait_if_interrupted();
    };
    act()
}

/// Waits for the watcher to end the process, if it is about to: what the main thread would say now is
/// a consequence of the signal.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}
