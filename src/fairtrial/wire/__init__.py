"""Pure: HTTP/1.1 both ways, no sockets."""
