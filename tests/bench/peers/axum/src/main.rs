//! A chat room in axum, for comparison with Bobbin. It has the structure of axum's own chat example (a
//! `tokio::sync::broadcast` channel per room, a sending and a receiving task per socket), with Redis pub/sub in
//! between, so that a message goes through Redis as it does in Bobbin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use redis::AsyncCommands;
use redis::aio::{MultiplexedConnection, PubSubSink};
use tokio::sync::broadcast;

type Rooms = Arc<Mutex<HashMap<String, broadcast::Sender<Utf8Bytes>>>>;

#[derive(Clone)]
struct App {
    rooms: Rooms,
    publisher: MultiplexedConnection,
    subscriber: Arc<tokio::sync::Mutex<PubSubSink>>,
}

#[tokio::main]
async fn main() {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL is set by the benchmark");
    let port = std::env::var("PORT").expect("PORT is set by the benchmark");
    let client = redis::Client::open(url).expect("REDIS_URL is a Redis URL");
    let publisher = client.get_multiplexed_async_connection().await.expect("Redis answers");
    let (sink, mut stream) = client.get_async_pubsub().await.expect("Redis answers").split();
    let rooms = Rooms::default();

    let fan_out = rooms.clone();
    tokio::spawn(async move {
        while let Some(message) = stream.next().await {
            let text: String = message.get_payload().expect("only text is published");
            if let Some(room) = fan_out.lock().unwrap().get(message.get_channel_name()) {
                let _ = room.send(text.into());
            }
        }
    });

    let app = App { rooms, publisher, subscriber: Arc::new(tokio::sync::Mutex::new(sink)) };
    let router = Router::new().route("/ws/{room}", get(upgrade)).with_state(app);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    println!("listening on http://{}", listener.local_addr().expect("a bound listener has an address"));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a TCP socket has this option"));
    axum::serve(listener, router).await.expect("the listener lives");
}

async fn upgrade(socket: WebSocketUpgrade, Path(room): Path<String>, State(app): State<App>) -> Response {
    socket.on_upgrade(move |socket| chat(socket, room, app))
}

async fn chat(socket: WebSocket, room: String, app: App) {
    let mut live = join(&room, &app).await;
    let (mut sender, mut receiver) = socket.split();
    if sender.send(Message::text("welcome")).await.is_err() {
        drop(live);
        return leave(&room, &app).await;
    }
    let mut send = tokio::spawn(async move {
        while let Ok(text) = live.recv().await {
            if sender.send(Message::Text(text)).await.is_err() {
                break;
            }
        }
    });
    let (mut publisher, channel) = (app.publisher.clone(), room.clone());
    let mut receive = tokio::spawn(async move {
        while let Some(Ok(Message::Text(text))) = receiver.next().await {
            let _: Result<(), _> = publisher.publish(&channel, text.as_str()).await;
        }
    });
    tokio::select! {
        _ = &mut send => receive.abort(),
        _ = &mut receive => {
            send.abort();
            // Aborting is only a request; wait, so that the task has dropped its receiver.
            let _ = send.await;
        }
    }
    leave(&room, &app).await;
}

async fn join(room: &str, app: &App) -> broadcast::Receiver<Utf8Bytes> {
    let (live, is_new) = {
        let mut rooms = app.rooms.lock().unwrap();
        match rooms.get(room) {
            Some(sender) => (sender.subscribe(), false),
            None => {
                let (sender, receiver) = broadcast::channel(1024);
                rooms.insert(room.to_owned(), sender);
                (receiver, true)
            }
        }
    };
    if is_new {
        app.subscriber.lock().await.subscribe(room).await.expect("Redis answers");
    }
    live
}

/// The last one to leave a room ends its subscription.
async fn leave(room: &str, app: &App) {
    let mut subscriber = app.subscriber.lock().await;
    let is_last = {
        let mut rooms = app.rooms.lock().unwrap();
        let is_last = rooms.get(room).is_some_and(|sender| sender.receiver_count() == 0);
        if is_last {
            rooms.remove(room);
        }
        is_last
    };
    if is_last {
        subscriber.unsubscribe(room).await.expect("Redis answers");
    }
}
