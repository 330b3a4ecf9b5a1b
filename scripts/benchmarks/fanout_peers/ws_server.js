// Node's ws, as its README shows a broadcast. It prints its port and obeys "EVENTS SCOPED".
"use strict";
const readline = require("node:readline");
const { WebSocketServer } = require("ws");

const EVENT_BYTES = 300;

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false, backlog: 1024 });
server.on("listening", () => console.log(server.address().port));

function event() {
  const head = `{"type":"event","sent":${process.hrtime.bigint()},"fill":"`;
  return head + "x".repeat(EVENT_BYTES - head.length - 2) + '"}';
}

function broadcast() {
  const data = Buffer.from(event());
  for (const client of server.clients) client.send(data, { binary: false });
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  for (let left = parseInt(line); left; left--) broadcast();
}).on("close", () => process.exit(0));
