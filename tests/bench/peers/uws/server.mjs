// A chat room on Bun, whose WebSockets are uWebSockets (C++), for comparison with Bobbin: `subscribe` and `publish` are
// uWebSockets' own topics. uWebSockets.js itself is not in the npm registry; Bun is the maintained package there that
// contains the library. Redis pub/sub uses Bun's own client, as in its documentation.

import { RedisClient } from "bun";

const publisher = new RedisClient(process.env.REDIS_URL);
const subscriber = await publisher.duplicate();
await subscriber.connect();

// The number of clients per room; there is one subscription per room with members.
const rooms = new Map();

const server = Bun.serve({
  port: Number(process.env.PORT),
  hostname: "127.0.0.1",
  fetch(request, server) {
    const room = new URL(request.url).pathname.slice("/ws/".length);
    if (server.upgrade(request, { data: { room } })) return undefined;
    return new Response("this is a WebSocket server", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    async open(socket) {
      const { room } = socket.data;
      socket.subscribe(room);
      const members = rooms.get(room) ?? 0;
      rooms.set(room, members + 1);
      if (members === 0) await subscriber.subscribe(room, (text) => server.publish(room, text));
      socket.send("welcome");
    },
    message(socket, text) {
      publisher.publish(socket.data.room, text);
    },
    async close(socket) {
      const { room } = socket.data;
      const members = rooms.get(room) - 1;
      if (members > 0) {
        rooms.set(room, members);
      } else {
        rooms.delete(room);
        await subscriber.unsubscribe(room);
      }
    },
  },
});

console.log(`listening on http://127.0.0.1:${server.port}`);
