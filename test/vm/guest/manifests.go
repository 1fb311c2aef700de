package main

// config is the cluster: the worker is small, so that it is filled soon.
const config = `
kind: Cluster
apiVersion: skiff.cluster/v1alpha1
nodes:
- role: control-plane
- role: worker
  resources: {cpu: "1", memory: 640Mi, pods: 20, ephemeralStorage: 512Mi}
  extraMounts: [{hostPath: /opt/skiff, containerPath: /opt/skiff, readOnly: true}]
restart: always
`

const shellImage = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2"

// diaryManifest is a Pod with a volume, of which each life writes into the
// volume when it begins, and when it is asked to end.
const diaryManifest = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: diary}
spec:
  serviceName: diary
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      containers:
      - name: c
        image: ` + shellImage + `
        command: [sh, -c]
        args: ["trap 'echo bye >> /data/diary; sync; exit 0' TERM; echo up >> /data/diary; sync; sleep 1000000 & wait"]
        resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 500m, memory: 32Mi}}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

// classes is a Pod of each QoS class, on the worker.
const classes = `
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"], resources: {limits: {cpu: 100m, memory: 48Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"], resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {memory: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: besteffort}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"]}
`

// greedy asks for more memory than it may have.
const greedy = `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  nodeName: skiff-worker
  restartPolicy: Never
  containers:
  - name: c
    image: ` + shellImage + `
    command: [dd, if=/dev/zero, of=/dev/null, bs=128M, count=1]
    resources: {limits: {memory: 32Mi}}
`

// hog takes the node's memory bit by bit, as fast as the kubelet can follow.
const hog = `
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: c
    image: ` + shellImage + `
    command: [sh, -c]
    args: ["i=0; while :; do dd if=/dev/zero of=/mem/$i bs=1M count=8; i=$((i+1)); sleep 2; done"]
    volumeMounts: [{name: mem, mountPath: /mem}]
  volumes: [{name: mem, emptyDir: {medium: Memory}}]
`

// packrat takes the node's disk bit by bit, once it is told to.
const packrat = `
apiVersion: v1
kind: Pod
metadata: {name: packrat}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: c
    image: ` + shellImage + `
    command: [sh, -c]
    args: ["until [ -e /disk/go ]; do sleep 1; done; i=0; while :; do dd if=/dev/zero of=/disk/$i bs=1M count=16; i=$((i+1)); sleep 2; done"]
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, emptyDir: {}}]
`

// closed lets nobody call the demo.
const closed = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec:
  podSelector: {matchLabels: {app: demo}}
  policyTypes: [Ingress]
`

// phones is a server of SCTP behind a Service and a host port, and who calls it
// on the same node: a Pod, and one of the node's network.
const phones = `
apiVersion: v1
kind: Service
metadata: {name: phones}
spec:
  type: NodePort
  selector: {app: phone}
  ports: [{name: sip, protocol: SCTP, port: 5000, targetPort: 7000}]
---
apiVersion: v1
kind: Pod
metadata: {name: phone, labels: {app: phone}}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + shellImage + `
    command: [/guest, ` + serveSCTP + `, "0.0.0.0:7000"]
    ports: [{containerPort: 7000, hostPort: 7001, protocol: SCTP}]
    volumeMounts: [{name: guest, mountPath: /guest}]
  volumes: [{name: guest, hostPath: {path: ` + here + `/guest}}]
---
apiVersion: v1
kind: Pod
metadata: {name: caller, labels: {friend: "true"}}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"], volumeMounts: [{name: guest, mountPath: /guest}]}
  volumes: [{name: guest, hostPath: {path: ` + here + `/guest}}]
---
apiVersion: v1
kind: Pod
metadata: {name: node-caller}
spec:
  nodeName: skiff-worker
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"], volumeMounts: [{name: guest, mountPath: /guest}]}
  volumes: [{name: guest, hostPath: {path: ` + here + `/guest}}]
`

// friends lets one who is marked so call the phone, and stranger is not.
const friends = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: phone}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {friend: "true"}}}]
    ports: [{protocol: SCTP, port: 7000}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  nodeName: skiff-worker
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: ` + shellImage + `, command: [sleep, "100000"], volumeMounts: [{name: guest, mountPath: /guest}]}
  volumes: [{name: guest, hostPath: {path: ` + here + `/guest}}]
`
