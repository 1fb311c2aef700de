package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// callTimeout bounds a call that the caller did not bound: the kubelet's
// runtimeRequestTimeout. A call that hangs gives the pod's worker back.
const callTimeout = 2 * time.Minute

// invoke makes one call with gRPC's guarantees and without gRPC: neither side
// sees later changes of the other's messages, and the caller gets control back
// when its context ends, whatever the service does.
func invoke[Request, Response proto.Message](
	ctx context.Context, timeout time.Duration,
	method func(context.Context, Request) (Response, error), request Request,
) (Response, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	type result struct {
		response Response
		err      error
	}
	done := make(chan result, 1)
	own := proto.CloneOf(request)
	go func() {
		response, err := method(ctx, own)
		if err == nil {
			response = proto.CloneOf(response)
		}
		done <- result{response, err}
	}()
	select {
	case r := <-done:
		return r.response, statusError(r.err)
	case <-ctx.Done():
		var none Response
		return none, statusError(ctx.Err())
	}
}

// statusError gives the ends of a context the codes that a gRPC client gives
// them.
func statusError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return err
}

// missing is the error for a response without a field that the kubelet relies
// on.
func missing(call, field string) error {
	return fmt.Errorf("%s: %s is not set in the response", call, field)
}
