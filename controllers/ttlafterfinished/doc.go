// Package ttlafterfinished deletes Jobs that have ended, when their
// ttlSecondsAfterFinished is over, in place of upstream's controller of the
// same name, which reads the machine's clock.
package ttlafterfinished
