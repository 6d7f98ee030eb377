// Package kubernetes runs a real kube-apiserver, built from its Go module, on
// coffer over mutual TLS, and does to it what a cluster does.
//
// Building kube-apiserver takes minutes the first time;
// COFFER_KUBE_APISERVER=PATH names one that was built before.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

const (
	pods       = 2000
	pageSize   = 250
	namespaces = 4
)

var widgets = schema.GroupVersionResource{Group: "test.coffer.example", Version: "v1", Resource: "widgets"}

func TestAKubernetesControlPlaneRunsOnCofferAndOutlivesItsCrash(t *testing.T) {
	dir := t.TempDir()
	authority := newPKI(t, dir)
	member, endpoint := newMember(t, authority, dir)
	apiserver, host, token := newAPIServer(t, authority, dir, endpoint)
	t.Cleanup(member.kill)
	t.Cleanup(apiserver.kill)
	member.start(t)
	apiserver.start(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of coffer's log:\n%s\nend of kube-apiserver's log:\n%s", member.tail(), apiserver.tail())
		}
	})

	config := &rest.Config{Host: host, BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: authority.path("ca.crt")}}
	k := cluster{Interface: kubernetes.NewForConfigOrDie(config), dynamic: dynamic.NewForConfigOrDie(config),
		extensions: apiextclient.NewForConfigOrDie(config)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()

	for i := range namespaces {
		must(t, retryUnavailable(ctx, func() error {
			_, err := k.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i)}}, metav1.CreateOptions{})
			return ignoreExists(err)
		}))
	}
	k.createSecretsAndConfigMaps(ctx, t)
	k.createCustomResources(ctx, t)

	seen := k.followPods(ctx, t)
	crashed := make(chan struct{})
	acknowledged := k.createPods(ctx, t, func(done int64) {
		if done == pods/2 {
			go func() {
				defer close(crashed)
				member.kill()
				member.start(t)
			}()
		}
	})
	<-crashed

	listed := k.listPodsInPages(ctx, t)
	for name, version := range acknowledged {
		if listed[name] == "" {
			t.Errorf("pod %s was acknowledged at %s and is gone after the crash", name, version)
		}
	}
	if len(listed) != pods {
		t.Errorf("%d pods are listed, %d were created", len(listed), pods)
	}
	k.updateWithConflicts(ctx, t)
	k.checkSecretsAndConfigMaps(ctx, t)

	seen.waitFor(ctx, t, "every pod's creation", func(s *podWatch) bool { return len(s.added) == pods })
	k.deletePods(ctx, t)
	seen.waitFor(ctx, t, "every pod's deletion", func(s *podWatch) bool { return len(s.deleted) == pods })
	if left := k.listPodsInPages(ctx, t); len(left) != 0 {
		t.Errorf("%d pods are listed after all were deleted", len(left))
	}

	// A second crash with the API server down too: both come back on what is on the disk.
	apiserver.kill()
	member.kill()
	member.start(t)
	apiserver.start(t)
	k.checkSecretsAndConfigMaps(ctx, t)
	k.checkCustomResources(ctx, t)
}

type cluster struct {
	kubernetes.Interface
	dynamic    dynamic.Interface
	extensions apiextclient.Interface
}

func namespace(i int) string { return fmt.Sprintf("team-%d", i%namespaces) }

func (k cluster) createSecretsAndConfigMaps(ctx context.Context, t *testing.T) {
	t.Helper()
	for i := range 100 {
		name := fmt.Sprintf("object-%03d", i)
		must(t, retryUnavailable(ctx, func() error {
			_, err := k.CoreV1().Secrets(namespace(i)).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name},
				Data: map[string][]byte{"password": []byte("secret-" + name)}}, metav1.CreateOptions{})
			return ignoreExists(err)
		}))
		must(t, retryUnavailable(ctx, func() error {
			_, err := k.CoreV1().ConfigMaps(namespace(i)).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name},
				Data: map[string]string{"setting": "plain-" + name}}, metav1.CreateOptions{})
			return ignoreExists(err)
		}))
	}
}

func (k cluster) checkSecretsAndConfigMaps(ctx context.Context, t *testing.T) {
	t.Helper()
	for i := range 100 {
		name := fmt.Sprintf("object-%03d", i)
		s, err := k.CoreV1().Secrets(namespace(i)).Get(ctx, name, metav1.GetOptions{})
		if err != nil || string(s.Data["password"]) != "secret-"+name {
			t.Errorf("secret %s: %v, %d bytes of data", name, err, len(s.Data["password"]))
		}
		c, err := k.CoreV1().ConfigMaps(namespace(i)).Get(ctx, name, metav1.GetOptions{})
		if err != nil || c.Data["setting"] != "plain-"+name {
			t.Errorf("config map %s: %v, %v", name, err, c.Data)
		}
	}
}

func (k cluster) createCustomResources(ctx context.Context, t *testing.T) {
	t.Helper()
	open := true
	definition := &apiext.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: widgets.Resource + "." + widgets.Group},
		Spec: apiext.CustomResourceDefinitionSpec{
			Group: widgets.Group, Scope: apiext.NamespaceScoped,
			Names: apiext.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiext.CustomResourceDefinitionVersion{{Name: widgets.Version, Served: true, Storage: true,
				Schema: &apiext.CustomResourceValidation{OpenAPIV3Schema: &apiext.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &open}}}},
		},
	}
	must(t, retryUnavailable(ctx, func() error {
		_, err := k.extensions.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, definition, metav1.CreateOptions{})
		return ignoreExists(err)
	}))
	for i := range 50 {
		widget := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": widgets.Group + "/" + widgets.Version, "kind": "Widget",
			"metadata": map[string]any{"name": fmt.Sprintf("widget-%02d", i)}, "spec": map[string]any{"size": int64(i)}}}
		must(t, retryUnavailable(ctx, func() error {
			_, err := k.dynamic.Resource(widgets).Namespace(namespace(i)).Create(ctx, widget, metav1.CreateOptions{})
			if apierrors.IsNotFound(err) { // the definition is not served yet
				return apierrors.NewServiceUnavailable(err.Error())
			}
			return ignoreExists(err)
		}))
	}
}

func (k cluster) checkCustomResources(ctx context.Context, t *testing.T) {
	t.Helper()
	must(t, retryUnavailable(ctx, func() error {
		list, err := k.dynamic.Resource(widgets).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return apierrors.NewServiceUnavailable(err.Error())
		}
		if err == nil && len(list.Items) != 50 {
			return fmt.Errorf("%d widgets are listed, 50 were created", len(list.Items))
		}
		return err
	}))
}

// createPods makes every pod and returns the resource version at which each
// was acknowledged. progress is told how many there are after each.
func (k cluster) createPods(ctx context.Context, t *testing.T, progress func(done int64)) map[string]string {
	t.Helper()
	var next, done atomic.Int64
	var mu sync.Mutex
	acknowledged := map[string]string{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= pods {
					return
				}
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%04d", i), Labels: map[string]string{"app": "web"}},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/web:1"}}}}
				err := retryUnavailable(ctx, func() error {
					made, err := k.CoreV1().Pods(namespace(i)).Create(ctx, pod, metav1.CreateOptions{})
					if err == nil {
						mu.Lock()
						acknowledged[made.Namespace+"/"+made.Name] = made.ResourceVersion
						mu.Unlock()
					}
					return ignoreExists(err)
				})
				if err != nil {
					t.Errorf("create pod %d: %v", i, err)
					return
				}
				progress(done.Add(1))
			}
		})
	}
	wg.Wait()
	return acknowledged
}

// listPodsInPages returns the resource version of every pod, read from the
// store page by page at one revision.
func (k cluster) listPodsInPages(ctx context.Context, t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	token := ""
	for {
		var page *corev1.PodList
		must(t, retryUnavailable(ctx, func() (err error) {
			page, err = k.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: pageSize, Continue: token})
			return err
		}))
		for _, p := range page.Items {
			name := p.Namespace + "/" + p.Name
			if found[name] != "" {
				t.Errorf("pod %s is on two pages", name)
			}
			found[name] = p.ResourceVersion
		}
		if token = page.Continue; token == "" {
			return found
		}
	}
}

// updateWithConflicts has many writers add to one counter: a write on an old
// resource version is refused, and no increment may be lost.
func (k cluster) updateWithConflicts(ctx context.Context, t *testing.T) {
	t.Helper()
	maps := k.CoreV1().ConfigMaps(namespace(0))
	must(t, retryUnavailable(ctx, func() error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
		return ignoreExists(err)
	}))
	const writers, each = 8, 10
	var conflicts atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := retry.OnError(retry.DefaultRetry, func(error) bool { return ctx.Err() == nil }, func() error {
					for {
						c, err := maps.Get(ctx, "counter", metav1.GetOptions{})
						if err != nil {
							return err
						}
						n, _ := strconv.Atoi(c.Data["n"])
						c.Data["n"] = strconv.Itoa(n + 1)
						_, err = maps.Update(ctx, c, metav1.UpdateOptions{})
						if apierrors.IsConflict(err) {
							conflicts.Add(1)
							continue
						}
						return err
					}
				})
				if err != nil {
					t.Errorf("update the counter: %v", err)
				}
			}
		})
	}
	wg.Wait()
	c, err := maps.Get(ctx, "counter", metav1.GetOptions{})
	must(t, err)
	if c.Data["n"] != strconv.Itoa(writers*each) {
		t.Errorf("the counter is %s after %d increments", c.Data["n"], writers*each)
	}
	if conflicts.Load() == 0 {
		t.Error("eight writers of one object never met a conflict")
	}
}

func (k cluster) deletePods(ctx context.Context, t *testing.T) {
	t.Helper()
	now := int64(0)
	for i := range namespaces {
		must(t, retryUnavailable(ctx, func() error {
			return k.CoreV1().Pods(namespace(i)).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
		}))
	}
}

// podWatch records what watches of all pods told, each beginning where the
// one before it ended.
type podWatch struct {
	mu      sync.Mutex
	added   map[string]string // pod -> resource version
	deleted map[string]string
	last    int64
	fault   error
	changed chan struct{}
}

// followPods watches all pods from now on, and goes on after an interruption
// from the last resource version it has seen.
func (k cluster) followPods(ctx context.Context, t *testing.T) *podWatch {
	t.Helper()
	list, err := k.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	must(t, err)
	from := list.ResourceVersion
	w := &podWatch{added: map[string]string{}, deleted: map[string]string{}, changed: make(chan struct{}, 1)}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var events watch.Interface
			err := retryUnavailable(ctx, func() (err error) {
				events, err = k.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{ResourceVersion: from})
				return err
			})
			if err != nil {
				w.fail(err)
				return
			}
			for e := range events.ResultChan() {
				pod, ok := e.Object.(*corev1.Pod)
				if !ok {
					w.fail(fmt.Errorf("the watch from %s answered %v", from, apierrors.FromObject(e.Object)))
					events.Stop()
					return
				}
				from = pod.ResourceVersion
				w.record(e.Type, pod)
			}
		}
	}()
	return w
}

func (w *podWatch) record(kind watch.EventType, pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := pod.Namespace + "/" + pod.Name
	version, err := strconv.ParseInt(pod.ResourceVersion, 10, 64)
	if err != nil || version <= w.last {
		w.fault = errors.Join(w.fault, fmt.Errorf("%s of %s at %s after %d (%v)", kind, name, pod.ResourceVersion, w.last, err))
	}
	w.last = version
	switch kind {
	case watch.Added:
		if w.added[name] != "" {
			w.fault = errors.Join(w.fault, fmt.Errorf("%s was added twice", name))
		}
		w.added[name] = pod.ResourceVersion
	case watch.Deleted:
		w.deleted[name] = pod.ResourceVersion
	}
	w.signal()
}

func (w *podWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = errors.Join(w.fault, err)
	w.signal()
}

func (w *podWatch) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *podWatch) waitFor(ctx context.Context, t *testing.T, what string, done func(*podWatch) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		met, fault := done(w), w.fault
		counts := fmt.Sprintf("%d added, %d deleted", len(w.added), len(w.deleted))
		w.mu.Unlock()
		if fault != nil {
			t.Fatalf("waiting for %s: %v (%s)", what, fault, counts)
		}
		if met {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the watch did not tell of %s: %s", what, counts)
		case <-w.changed:
		}
	}
}

// retryUnavailable repeats do while the API server or the store behind it is
// not to be reached, which is what any client does while a member restarts.
func retryUnavailable(ctx context.Context, do func() error) error {
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		err := do()
		var status apierrors.APIStatus
		switch {
		case err == nil:
			return nil
		case errors.As(err, &status) && !apierrors.IsInternalError(err) && !apierrors.IsServiceUnavailable(err) &&
			!apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsUnexpectedServerError(err) && status.Status().Code < 500:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
