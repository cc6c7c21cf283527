// Every page opens a websocket, as Throat's do, without polling to fall back on; new posts appear at the top of the list.
const socket = io("/snt", { transports: ["websocket"] });
socket.on("connect", () => {
  document.documentElement.dataset.live = "yes";
  socket.emit("subscribe", { target: "/all/new" });
});
socket.on("thread", (post) => {
  const item = document.createElement("li");
  item.className = "live";
  item.textContent = post.title;
  document.querySelector("main ul").prepend(item);
});
