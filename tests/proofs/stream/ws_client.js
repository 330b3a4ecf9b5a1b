// Follows a stream with `ws`, cuts itself off again and again, resumes; prints what it saw as JSON.
// usage: node ws_client.js URL TOKEN QUERY TOTAL EACH
const WebSocket = require('ws')
const [url, token, query, total, each] = process.argv.slice(2)
const seen = { numbers: [], connections: 0, pongs: 0, types: [] }
let cursor = 'earliest'

function follow() {
  seen.connections += 1
  let here = 0
  let isCut = false
  const headers = { Authorization: `Bearer ${token}` }
  const socket = new WebSocket(`${url}/v1/events?${query}&cursor=${cursor}`, { headers })
  socket.on('open', () => socket.ping('well?'))
  socket.on('pong', (data) => { seen.pongs += data.toString() === 'well?' })
  socket.on('message', (data, isBinary) => {
    if (isCut) return
    if (isBinary) throw new Error('a binary message')
    const message = JSON.parse(data)
    if (!seen.types.includes(message.type)) seen.types.push(message.type)
    cursor = message.cursor
    if (message.type !== 'event') return
    here += 1
    seen.numbers.push(message.data.number)
    isCut = here === Number(each)
    if (message.data.number === Number(total) - 1) {
      isCut = true
      socket.close(1000)
      socket.on('close', (code) => console.log(JSON.stringify({ ...seen, code })))
    } else if (isCut) {
      socket.terminate()
      socket.on('close', follow)
    }
  })
}

follow()
