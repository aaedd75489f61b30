// The reference rule for Node. Each reply names the connection that carried it in X-UserId.
require('http').createServer((request, reply) => {
  const token = new URL(request.url, 'http://localhost').searchParams.get('token')
  reply.writeHead(token === '123' ? 200 : 403, { 'X-UserId': String(request.socket.remotePort), 'Content-Length': 0 })
  reply.end()
}).listen(Number(process.argv[2]), '127.0.0.1')
