package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	pauseImage   = "registry.k8s.io/pause:3.10.2"
	agnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"
)

// createFirst creates a Deployment of a web server, its Service, and a Pod
// that ends when the Service has answered by its name.
func createFirst(ctx context.Context, client kubernetes.Interface) error {
	replicas := int32(1)
	labels := map[string]string{"app": "web"}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "c", Image: agnhostImage, Args: []string{"netexec"}, ImagePullPolicy: corev1.PullIfNotPresent,
				}}},
			},
		},
	}
	if err := retry(ctx, func() error {
		_, err := client.AppsV1().Deployments("default").Create(ctx, deployment, metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create Deployment: %w", err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 8080}},
	}}
	if err := retry(ctx, func() error {
		_, err := client.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create Service: %w", err)
	}
	caller := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "caller", Labels: map[string]string{"pod": "caller"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "c", Image: agnhostImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"sh", "-c", "until curl -s -m 2 http://web.default.svc.cluster.local:8080/; do sleep 0.02; done"},
			}},
		},
	}
	// A Pod is refused until its namespace's ServiceAccount is there.
	if err := retry(ctx, func() error {
		_, err := client.CoreV1().Pods("default").Create(ctx, caller, metav1.CreateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("create Pod: %w", err)
	}
	return nil
}

func createConfig(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	return err
}

// pausePod runs pause; with volumes it has a ConfigMap, a Secret and its
// ServiceAccount's token.
func pausePod(name string, volumes bool) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken:  &volumes,
			Containers:                    []corev1.Container{{Name: "c", Image: pauseImage, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	if volumes {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "bench"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "bench"}}},
		}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret"}}
	}
	return p
}

func createBurst(ctx context.Context, client kubernetes.Interface, n int) error {
	replicas := int32(n)
	labels := map[string]string{"app": "burst"}
	p := pausePod("burst", false)
	_, err := client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "burst"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
		},
	}, metav1.CreateOptions{})
	return err
}
