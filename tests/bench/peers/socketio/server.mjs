// A chat room in socket.io 4 with its Redis adapter, set up as in its documentation, for comparison with Bobbin. The
// adapter sends a message to this process's own clients at once and publishes it to the other processes; so, unlike
// with the other peers, a message does not wait for Redis.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  perMessageDeflate: false,
});

io.on("connection", (socket) => {
  socket.on("join", (room) => {
    socket.join(room);
    socket.emit("welcome");
    socket.on("message", (text) => io.to(room).emit("message", text));
  });
});

http.listen(Number(process.env.PORT), "127.0.0.1", 4096, () => {
  console.log(`listening on http://127.0.0.1:${http.address().port}`);
});
