package clockjump

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// symbol is what Go programs call in the vDSO for both of their clocks.
	symbol = "__vdso_clock_gettime"
	// stillTries is how often to stop the process in the hope that no thread
	// is in the vDSO. Few read the time for longer than a moment.
	stillTries = 200
	// offsetAt is where the offset is in the entry.
	offsetAt = 13
)

// Set sets CLOCK_REALTIME of a process apart by offset, in whole seconds.
// Zero gives it the machine's time again. The process is stopped meanwhile.
func Set(pid int, offset time.Duration) error {
	vdso, err := findVDSO(pid)
	if err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	if err := vdso.patch(pid, entry(offset)); err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	return nil
}

// entry is the machine code of clock_gettime(clock, *timespec):
//
//	mov eax, SYS_clock_gettime; syscall
//	test edi, edi; jne done         # not CLOCK_REALTIME
//	mov rcx, offset; add [rsi], rcx
//	done: ret
func entry(offset time.Duration) []byte {
	code := []byte{0xb8, 0xe4, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x85, 0xff, 0x75, 0x0d, 0x48, 0xb9}
	code = binary.LittleEndian.AppendUint64(code, uint64(int64(offset/time.Second)))
	return append(code, 0x48, 0x01, 0x0e, 0xc3)
}

// vdso of a process.
type vdso struct {
	start, end uint64
	// clockGettime is its entry, room the bytes until the next function.
	clockGettime, room uint64
}

func findVDSO(pid int) (vdso, error) {
	var v vdso
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return v, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &v.start, &v.end); err != nil {
				return v, err
			}
		}
	}
	if v.start == 0 {
		return v, errors.New("no vDSO")
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return v, err
	}
	defer mem.Close()
	image := make([]byte, v.end-v.start)
	if _, err := mem.ReadAt(image, int64(v.start)); err != nil {
		return v, fmt.Errorf("read vDSO: %w", err)
	}
	return v, v.locate(image)
}

func (v *vdso) locate(image []byte) error {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("read vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("read vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == symbol {
			v.clockGettime, v.room = v.start+s.Value, v.end-v.start-s.Value
		}
	}
	if v.clockGettime == 0 {
		return fmt.Errorf("vDSO has no %s", symbol)
	}
	for _, s := range symbols {
		if at := v.start + s.Value; at > v.clockGettime {
			v.room = min(v.room, at-v.clockGettime)
		}
	}
	return nil
}

// patch writes the code while no thread is in the vDSO: one that is would go
// on in the middle of something else.
func (v vdso) patch(pid int, code []byte) error {
	if uint64(len(code)) > v.room {
		return fmt.Errorf("%s has room for %d bytes, not %d", symbol, v.room, len(code))
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	have := make([]byte, len(code))
	if _, err := mem.ReadAt(have, int64(v.clockGettime)); err != nil {
		return fmt.Errorf("read vDSO: %w", err)
	}
	// Threads may be anywhere in an entry of ours: only its data changes.
	ours := bytes.Equal(have[:offsetAt], code[:offsetAt])
	for range stillTries {
		outside, err := v.stopOutside(pid)
		if outside = outside || ours; err == nil && outside {
			_, err = mem.WriteAt(code, int64(v.clockGettime))
		}
		if err := errors.Join(err, syscall.Kill(pid, syscall.SIGCONT)); err != nil {
			return err
		}
		if outside {
			return nil
		}
		time.Sleep(time.Millisecond) // for it to get out of there
	}
	return errors.New("some thread is always in the vDSO")
}

// stopOutside stops the process and says whether all threads stopped outside
// of the vDSO.
func (v vdso) stopOutside(pid int) (bool, error) {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return false, err
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		at, err := stoppedAt(thread)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		if err != nil {
			return false, err
		}
		if at >= v.start && at < v.end {
			return false, nil
		}
	}
	return true, nil
}

// stoppedAt is where a thread stands, as soon as it does: the signal is on its
// way, and nothing says when it has come.
func stoppedAt(thread string) (uint64, error) {
	for range stillTries {
		// "running", or: number, arguments, stack pointer, program counter.
		state, err := os.ReadFile(thread + "/syscall")
		if err != nil {
			return 0, err
		}
		words := strings.Fields(string(state))
		if at, err := strconv.ParseUint(strings.TrimPrefix(words[len(words)-1], "0x"), 16, 64); err == nil {
			return at, nil
		}
		time.Sleep(time.Millisecond)
	}
	return 0, fmt.Errorf("thread %s does not stop", filepath.Base(thread))
}
