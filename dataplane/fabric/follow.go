package fabric

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Follow takes a step at once and after each message of a netlink socket, which
// it closes, until ctx ends. An error of the socket's says what was followed.
//
// What changed does not matter, nor that some changes were missed (ENOBUFS): a
// step reads the state again.
func Follow(ctx context.Context, what string, events *nl.NetlinkSocket, step func() error) error {
	stop := context.AfterFunc(ctx, events.Close)
	defer func() {
		if stop() {
			events.Close()
		}
	}()
	for {
		if err := step(); err != nil {
			return err
		}
		if _, _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
