"""A toy model behind HTTP: `python model.py PORT ACCURACY`. Answers V1 `:predict` with a number from 0 to 9.

Standard library only: any server that speaks HTTP/1.1 does.
"""

import json
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes
    accuracy = 0.8

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        predictions = [x if random.random() < self.accuracy else (x + 1) % 10 for x in body["instances"]]
        answer = json.dumps({"predictions": predictions}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    port, Handler.accuracy = int(sys.argv[1]), float(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
