package features

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// Missing is something that this kernel lacks.
type Missing struct {
	// Feature as the kernel's developers name it, and Since the first version
	// that has it.
	Feature, Since string
	// Consequence of the lack.
	Consequence string
}

func (m *Missing) Error() string {
	return fmt.Sprintf("kernel feature: %s (Linux %s and newer): %s", m.Feature, m.Since, m.Consequence)
}

// Mend says what the user can do.
func (m *Missing) Mend() string { return "boot Linux " + m.Since + " or newer" }

// Services asks for what programs that balance Services need, of which the
// newest part stands for the rest. Nil: they load.
func Services() error {
	return ask(functionPointers, &Missing{"pointers as arguments of BPF functions", "5.13", "Services cannot be programmed"})
}

// Policies asks for what NetworkPolicies need. Nil: they are enforced.
func Policies() error {
	return ask(func() error { return features.HaveProgramType(ebpf.Netfilter) },
		&Missing{"BPF programs of netfilter", "6.4", "NetworkPolicies are not enforced"})
}

// Refusals asks whether programs at sockets choose the error of a call that
// they refuse.
func Refusals() error {
	return ask(func() error { return features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) },
		&Missing{"helper bpf_set_retval at sockets", "6.1", "a Service without endpoints answers EPERM, not ECONNREFUSED"})
}

// ask turns a probe's answer into ours. A probe that fails for another reason
// says nothing: whoever loads the programs has the better error.
func ask(probe func() error, lack *Missing) error {
	if err := probe(); errors.Is(err, ebpf.ErrNotSupported) {
		return lack
	}
	return nil
}

// functionPointers loads a program that hands the address of a variable to a
// function which is verified for itself.
func functionPointers() error {
	number := &btf.Int{Name: "unsigned long", Size: 8}
	status := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	function := func(name string, param btf.Type) *btf.Func {
		return &btf.Func{Name: name, Linkage: btf.GlobalFunc,
			Type: &btf.FuncProto{Return: status, Params: []btf.FuncParam{{Name: "p", Type: &btf.Pointer{Target: param}}}}}
	}
	main := function("probe", &btf.Struct{Name: "bpf_sock_addr", Size: 4})
	called := function("called", number)
	prog, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Name: "probe", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			btf.WithFuncMetadata(asm.Mov.Imm(asm.R1, 0), main).WithSymbol(main.Name),
			asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R10),
			asm.Add.Imm(asm.R1, -8),
			asm.Call.Label(called.Name),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
			btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, 0), called).WithSymbol(called.Name),
			asm.Return(),
		},
	}, ebpf.ProgramOptions{LogDisabled: true})
	if err == nil {
		return prog.Close()
	}
	// The verifier does not know such arguments: it refuses the program.
	if permitted() {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	return err
}

// permitted says whether the caller may load any program of that type.
func permitted() bool { return features.HaveProgramType(ebpf.CGroupSockAddr) == nil }
