// Command web answers every request with the name of its host, so that one sees which pod answered.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	address := ":8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	host, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second}
	server.Handler = http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		fmt.Printf("%s %s from %s\n", request.Method, request.URL.Path, request.RemoteAddr)
		fmt.Fprintf(answer, "Hello from %s\n", host)
	})
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ended.Done()
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(patience)
	}()
	fmt.Printf("serving as %s on %s\n", host, address)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ended.Done()
}
