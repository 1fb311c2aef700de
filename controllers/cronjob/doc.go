// Package cronjob makes Jobs when their time has come, in place of upstream's
// controller of the same name. That one reads the machine's clock and starts
// each Job a tenth of a second late, lest the clock be wrong; here all time is
// the cluster's, and what is due when that clock moves is started then.
//
// A Job's name holds its time, so that nothing is started twice.
//
//	delete what the history limits say → account for Jobs that ended or went
//	missing → start what is due (decide) → write the status
package cronjob
