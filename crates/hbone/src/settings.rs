//! The HTTP/2 parameters of a tunnel, as Istio's proxies set them.

use std::time::Duration;

use h2::{client, server};

/// How much of one stream may be under way.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// How much of all streams of a connection together.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const MAX_FRAME: u32 = 1024 * 1024;
/// Streams that a peer may open on one connection.
pub(crate) const SERVER_STREAMS: u32 = 200;
const SERVER_HEADER_LIST: u32 = 64 * 1024;
const CLIENT_HEADER_LIST: u32 = 16 * 1024;
/// What a stream may have queued that the connection has not written yet.
const SEND_BUFFER: usize = 400 * 1024;
/// Until the peer's settings have arrived.
const INITIAL_STREAMS: usize = 100;

/// h2 ends a connection, with every tunnel in it, when small frames that nobody has read cost more than this; one of a
/// single byte costs 255. Our streams take small frames out and join them while their reader is stalled (see
/// `stream::inbox`), so that this limits bursts and readers that do not poll: 64 MiB are 263,000 frames, which hold
/// some 80 MB at worst. Without it a peer could fill the connection's window byte by byte and hold gigabytes.
const DATA_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// Streams that we have reset and still remember, so that what their peer had under way is no mistake of the peer's. Each
/// takes some 500 bytes for a second. h2's 50 are fewer than the callers that give up when a load test is stopped.
const RESET_STREAMS: usize = 2048;
/// Mistakes of a peer in the life of a connection, before all of its tunnels are cut. Every frame for a stream that is
/// forgotten counts, and h2 never forgives: its 1024 came together in a minute of honest load.
const MISTAKES: usize = 65_536;

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Istio's waypoints keep an idle connection this long.
pub(crate) const SERVER_IDLE: Duration = Duration::from_secs(3600);

pub(crate) fn server() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(SERVER_HEADER_LIST)
        .max_concurrent_streams(SERVER_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        // Callers that give up before we looked at their streams; h2's 20 is less than one burst of ours.
        .max_pending_accept_reset_streams(SERVER_STREAMS as usize)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(Some(MISTAKES))
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}

pub(crate) fn client() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(CLIENT_HEADER_LIST)
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(Some(MISTAKES))
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}
